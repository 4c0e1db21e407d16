"""Every suite of both tables, end to end, in this process and over HTTP: the same questions, the same table."""

from __future__ import annotations

import json

import pytest

from hidden_decoding.engines.local.engine_config import EngineConfig
from hidden_decoding.evaluate.models import ModelSpec, open_model
from hidden_decoding.evaluate.pack import load_pack
from hidden_decoding.evaluate.report import find_results, make_reports
from hidden_decoding.evaluate.report_pages import html_page, markdown
from hidden_decoding.evaluate.run import evaluate_model, prepare
from hidden_decoding.evaluate.settings import EvalConfig
from tests.evaluate.conftest import ENGINE, REAL

pytestmark = pytest.mark.slow
LOGLIKELIHOOD = 1e-4  # between the engine in this process and the same engine behind HTTP


@pytest.fixture(scope="module", params=["base", "instruct"])
def runs(request, data, checkpoint, server, tmp_path_factory):
    """(table, results in process, results over HTTP, their directory)."""
    # Greedy, so that both ways must say the same: only where a request falls in a batch differs.
    config = EvalConfig(data=data, limit=20, max_answer_tokens=4, allow_code_execution=True)
    pack = load_pack(request.param)
    greedy = type(pack)(**{**vars(pack), "sampling": {"temperature": 0.0}})
    prepared = prepare(greedy, config, progress=False)
    directory, engine = tmp_path_factory.mktemp(request.param), EngineConfig(**ENGINE)
    results = []
    for name, spec in (("local", ModelSpec(name=str(checkpoint))), ("http", ModelSpec(name=f"{server.url}/v1#tiny"))):
        settings = EvalConfig(**{**vars(config), "tokenizer": checkpoint if name == "http" else None})
        with open_model(spec, "local", settings, engine) as opened:
            results.append(evaluate_model(opened, greedy, prepared, settings, directory / name, progress=False))
    return request.param, *results, directory


def test_every_suite_runs(runs):
    table, local, http, _ = runs
    for results in (local, http):
        assert [suite["name"] for suite in results["suites"]] == [suite.name for suite in load_pack(table).suites]
        for suite in results["suites"]:
            assert suite["status"] == "done", suite
            assert suite["failed"] == 0, suite["first_failure"]
            assert suite["score"]["questions"] >= (20 if REAL.is_dir() else 3)
            assert 0 <= suite["score"]["low"] <= suite["score"]["mean"] <= suite["score"]["high"] <= 100
            assert suite["published"] is None  # a limit was set
            assert suite["cost"]["prompt_tokens"] > 0


def test_both_ways_give_the_same_table(runs):
    _, local, http, directory = runs
    for here, there in zip(local["suites"], http["suites"], strict=True):
        assert here["score"] == there["score"], here["name"]
        assert here["scores"] == there["scores"]
    compared = 0
    for mine, theirs in zip(*(lines(directory / name / "samples.jsonl") for name in ("local", "http")), strict=True):
        assert mine["prompt"] == theirs["prompt"]
        if "logprobs" in mine:
            assert mine["logprobs"] == pytest.approx(theirs["logprobs"], abs=LOGLIKELIHOOD)
            compared += 1
        else:
            assert mine["answer"] == theirs["answer"]
    assert compared or local["table"] == "instruct"


def test_shared_beginnings_come_from_the_cache(runs):
    table, local, http, _ = runs
    for results in (local, http):
        cost = {suite["name"]: suite["cost"] for suite in results["suites"]}
        if table == "base":
            for name in ("mmlu", "arc_challenge"):  # four answers to one question, few-shot examples in common
                assert cost[name]["cached_tokens"] > 0.5 * cost[name]["prompt_tokens"], (name, cost[name])
        for one in cost.values():
            computed = one["prompt_tokens"] - one["cached_tokens"] + one["answer_tokens"]
            assert one["computed_positions"] == 2 * computed
            assert one["seconds"] > 0


def test_the_report_shows_them_side_by_side(runs):
    table, local, _, directory = runs
    [report] = make_reports(find_results([directory]))
    assert report.table == table
    assert len(report.names) == 2
    page, text = html_page([report]), markdown([report])
    for suite in local["suites"]:
        assert f"{suite['score']['mean']:.2f} [" in text
        assert suite["title"] in page
    if REAL.is_dir():
        subset = "MMLU-Pro" if table == "instruct" else "HellaSwag"
        assert f"{subset}: no published figures beside it: sample:" in text


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
