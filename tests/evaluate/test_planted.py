"""Every benchmark's scorer against answers of known truth, in many forms: no false positive and no false negative.

A mock server sees only the rendered prompt. Each document's score must be the planned one, so the rate is exact too.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hidden_decoding.engines.local.engine_config import EngineConfig
from hidden_decoding.evaluate.models import ModelSpec, open_model
from hidden_decoding.evaluate.pack import load_pack
from hidden_decoding.evaluate.run import evaluate_model, prepare
from hidden_decoding.evaluate.settings import EvalConfig
from tests.evaluate.oracle import Oracle, serving
from tests.evaluate.planting import planted
from tests.support import tiny_tokenizer

pytestmark = pytest.mark.slow
SUITES = [(table, suite.name) for table in ("base", "instruct") for suite in load_pack(table).suites]
# Documents per task: at least thirty per suite where the data has as many.
LIMITS = {"bbh": 3, "mmlu": 1, "cmmlu": 1, "ceval": 1, "math": 12, "mbpp_plus": 33}


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def oracle():
    tokenizer = tiny_tokenizer()
    with serving(Oracle(decode=tokenizer.decode)) as running:
        yield running


@pytest.mark.parametrize(("table", "name"), SUITES)
def test_the_score_is_what_was_planted(table, name, data, oracle, tokenizer_dir, tmp_path):
    pack = load_pack(table)
    config = EvalConfig(
        data=data,
        suite=(name,),
        limit=LIMITS.get(name, 33),
        samples=2,
        allow_code_execution=True,
        tokenizer=tokenizer_dir,
    )
    [entry] = prepared = prepare(pack, config, progress=False)
    written = tmp_path / "written"
    plan, expected = {}, {}
    for number, item in enumerate(entry.items):
        needle, said, right = planted(entry.suite, item, number, str(written))
        plan[needle] = said
        expected[f"{item.task.name}/{item.doc_id}"] = (right, said)
    assert len(plan) == len(entry.items), "two questions cannot be told apart"
    oracle.plan = plan
    with open_model(ModelSpec(name=oracle.url), "local", config, EngineConfig()) as opened:
        results = evaluate_model(opened, pack, prepared, config, tmp_path / "run", progress=False)
    [suite] = results["suites"]
    wrong = {key: expected[key] for key, score in suite["scores"].items() if bool(score) != expected[key][0]}
    assert not wrong
    assert suite["scores"].keys() == expected.keys()
    rate = sum(right for right, _ in expected.values()) / len(expected)
    assert suite["score"]["mean"] == pytest.approx(100 * rate, abs=1e-3)
    assert 0 < rate < 1
    assert not written.exists()
    assert suite["failed"] == 0


def test_forms_are_many():
    """At least five surface forms and as many near-misses of every kind are in play."""
    source = Path(__file__).with_name("planting.py").read_text(encoding="utf-8")
    from tests.evaluate import planting

    for name in re.findall(r"(?m)^([A-Z_]+) = \(", source):
        least = 4 if name in {"WORDS", "EXACT_MISS"} else 5
        assert len(getattr(planting, name)) >= least, name
