"""`bench serve` against a real server: both loops, vLLM's keys, figures that agree, failures counted."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import statistics

import pytest

from hidden_decoding.bench.serving import LoadConfig, _arrivals, run_load
from hidden_decoding.bench.workload import WorkloadConfig, draw
from hidden_decoding.cli.main import main
from tests.serve.support import running_server

# What `vllm bench serve --save-result --save-detailed` writes, as its plots read it.
KEYS = {"date", "backend", "model_id", "num_prompts", "request_rate", "max_concurrency", "duration", "completed",
        "failed", "total_input_tokens", "total_output_tokens", "request_throughput", "output_throughput",
        "total_token_throughput", "input_lens", "output_lens", "ttfts", "itls", "generated_texts", "errors",
        *(f"{kind}_{name}_ms" for name in ("ttft", "tpot", "itl", "e2el")
          for kind in ("mean", "median", "std", "p99"))}  # fmt: skip
WORKLOAD = {"num_prompts": 12, "max_request_tokens": 60, "vocab_size": 512, "seed": 3}
FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in WORKLOAD.items()]


@pytest.fixture(scope="module")
def server(tiny_checkpoint):
    with running_server(tiny_checkpoint(2), engine={"max_num_seqs": 8}) as running:
        yield running


def load(server, **options) -> tuple[dict, int]:
    """The report of one run, and the most requests that the server ever worked on at once."""
    most = 0

    class Counting(set):
        def add(self, item):
            nonlocal most
            super().add(item)
            # The client may have its answer's end a moment before the server forgets the request.
            most = max(most, sum(generation.unfinished for generation in self))

    server.state.running = Counting()
    try:
        work = run_load(LoadConfig(base_url=f"{server.url}/v1", **options), WorkloadConfig(**WORKLOAD), progress=False)
        return asyncio.run(work), most
    finally:
        server.state.running = set()


def check_consistency(report: dict) -> None:
    """Every figure follows from the lists beside it."""
    items = draw(WorkloadConfig(**WORKLOAD))
    assert report.keys() >= KEYS
    assert (report["completed"], report["failed"], report["errors"]) == (len(items), 0, [""] * len(items))
    assert report["input_lens"] == [len(item.prompt_token_ids) for item in items]
    assert report["output_lens"] == [item.answer_tokens for item in items]
    assert report["total_input_tokens"] == sum(report["input_lens"])
    assert report["total_output_tokens"] == sum(report["output_lens"])
    assert report["output_throughput"] == pytest.approx(report["total_output_tokens"] / report["duration"])
    assert report["request_throughput"] == pytest.approx(len(items) / report["duration"])
    # A piece of a stream may carry several tokens, never none: a character can take more than one.
    assert all(0 <= len(gaps) < tokens for gaps, tokens in zip(report["itls"], report["output_lens"], strict=True))
    assert report["mean_ttft_ms"] == pytest.approx(1000 * statistics.fmean(report["ttfts"]))
    assert report["median_itl_ms"] == pytest.approx(1000 * statistics.median(itertools.chain(*report["itls"])))
    assert all(ttft > 0 for ttft in report["ttfts"])
    assert report["max_e2el_ms"] <= 1000 * report["duration"]
    assert any(report["generated_texts"])


@pytest.mark.parametrize("concurrency", [1, 4])
def test_closed_loop(server, concurrency):
    report, most = load(server, max_concurrency=concurrency)
    check_consistency(report)
    assert most == concurrency
    assert (report["request_rate"], report["max_concurrency"]) == ("inf", concurrency)


def test_open_loop(server):
    """Requests come when they are due, not when others end: the run lasts at least until the last arrival."""
    report, _ = load(server, request_rate=20.0)
    check_consistency(report)
    assert (report["request_rate"], report["max_concurrency"]) == (20.0, None)
    slow, _ = load(server, request_rate=10.0)
    # The same seed at half the rate: every arrival is twice as late. The last of them bounds the run from below.
    due = {rate: _arrivals(LoadConfig(request_rate=rate), WorkloadConfig(**WORKLOAD))[-1] for rate in (10.0, 20.0)}
    assert due[10.0] == pytest.approx(2 * due[20.0])
    assert slow["duration"] > due[10.0]
    assert report["duration"] > due[20.0]


def test_the_same_seed_gives_the_same_texts(server):
    first, second = load(server, max_concurrency=2)[0], load(server, max_concurrency=6)[0]
    assert first["generated_texts"] == second["generated_texts"]


def test_the_command_writes_and_prints(server, tmp_path, capsys):
    out = tmp_path / "report.json"
    flags = ["bench", "serve", "--base-url", f"{server.url}/v1", "--max-concurrency", "4", *FLAGS]
    assert main([*flags, "--out", str(out), "--json"]) == 0
    printed, written = json.loads(capsys.readouterr().out), json.loads(out.read_text())
    assert printed == {key: value for key, value in written.items() if not isinstance(value, list)}
    assert math.isfinite(printed["p99_itl_ms"])
    check_consistency(written)


def test_failures_are_counted_and_the_exit_code_is_1(server, tmp_path, capsys):
    """Some requests have more tokens than the server's context: those fail, the others are measured."""
    out = tmp_path / "report.json"
    flags = ["bench", "serve", "--base-url", f"{server.url}/v1", "--num-prompts", "10", "--vocab-size", "512"]
    assert main([*flags, "--max-request-tokens", "400", "--seed", "3", "--out", str(out), "--json"]) == 1
    report = json.loads(out.read_text())
    items = draw(WorkloadConfig(num_prompts=10, vocab_size=512, max_request_tokens=400, seed=3))
    fits = [len(item.prompt_token_ids) + item.answer_tokens <= 256 for item in items]
    assert 0 < sum(fits) < 10, "some fit and some do not"
    assert [not error for error in report["errors"]] == fits
    assert (report["completed"], report["failed"]) == (sum(fits), 10 - sum(fits))
    assert report["total_output_tokens"] == sum(i.answer_tokens for i, fit in zip(items, fits, strict=True) if fit)
    captured = capsys.readouterr()
    assert json.loads(captured.out)["failed"] == 10 - sum(fits)
    assert "maximum context length is 256 tokens" in captured.err


def test_no_server_is_a_failure_not_a_traceback(tmp_path, capsys):
    flags = ["bench", "serve", "--base-url", "http://127.0.0.1:9/v1", "--num-prompts", "2", "--json"]
    assert main(flags) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["failed"] == 2
    assert "ConnectError" in captured.err
    assert "Traceback" not in captured.err
