"""A run that dies goes on where it stopped: no question twice, and the table of a run that never died."""

from __future__ import annotations

import json

import pytest

from hidden_decoding.engines.local.engine_config import EngineConfig
from hidden_decoding.errors import ConfigError
from hidden_decoding.evaluate import asking_http
from hidden_decoding.evaluate.models import ModelSpec, open_model
from hidden_decoding.evaluate.pack import load_pack
from hidden_decoding.evaluate.run import evaluate_model, prepare
from hidden_decoding.evaluate.settings import EvalConfig
from hidden_decoding.evaluate.store import Store
from tests.evaluate.oracle import Oracle, serving
from tests.evaluate.planting import planted


@pytest.fixture(scope="module")
def asked(data):
    """(pack, settings, questions, plan) of two suites of text answers."""
    pack, plan = load_pack("base"), {}
    config = EvalConfig(data=data, suite=("gsm8k", "bbh"), limit=2)
    prepared = prepare(pack, config, progress=False)
    for entry in prepared:
        for number, item in enumerate(entry.items):
            needle, said, _ = planted(entry.suite, item, number, "")
            plan[needle] = said
    return pack, config, prepared, plan


def run(oracle, asked, directory):
    pack, config, prepared, _ = asked
    with open_model(ModelSpec(name=f"{oracle.url}#oracle"), "local", config, EngineConfig()) as opened:
        return evaluate_model(opened, pack, prepared, config, directory, progress=False)


def table(results):
    return [(suite["name"], suite["score"], suite["scores"], suite["harness"]) for suite in results["suites"]]


def test_interrupted_and_resumed_gives_the_same_table(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(asking_http, "FIRST_PAUSE", 0.001)
    total = sum(len(item.questions) for entry in asked[2] for item in entry.items)
    with serving(Oracle(plan=asked[3])) as oracle:
        whole = run(oracle, asked, tmp_path / "whole")
        assert sum(oracle.asked.values()) == total
    with serving(Oracle(plan=asked[3], die_after=total // 2)) as oracle:
        with pytest.raises(ConfigError, match=r"cannot be reached \(HTTP 503\).*run again: it goes on"):
            run(oracle, asked, tmp_path / "broken")
        stored = tmp_path / "broken" / "responses.jsonl"
        lines = stored.read_bytes().splitlines(keepends=True)
        assert 0 < len(lines) <= total // 2
        stored.write_bytes(b"".join(lines[:-1]) + lines[-1][:40])  # killed in the middle of a line
        assert not (tmp_path / "broken" / "results.json").exists()
        oracle.die_after, before = None, sum(oracle.asked.values())
        oracle.asked.clear()
        resumed = run(oracle, asked, tmp_path / "broken")
        # The answer whose line was cut is asked again, and so is what was on its way; no other.
        assert sum(oracle.asked.values()) == total - (len(lines) - 1)
        assert max(oracle.asked.values()) == 1
        assert before <= total // 2
        oracle.asked.clear()
        assert table(run(oracle, asked, tmp_path / "broken")) == table(whole)
        assert not oracle.asked
    assert table(resumed) == table(whole)


def test_another_model_does_not_get_these_answers(asked, tmp_path):
    with serving(Oracle(plan=asked[3])) as oracle:
        run(oracle, asked, tmp_path)
        record = json.loads((tmp_path / "run.json").read_text())
        (tmp_path / "run.json").write_text(json.dumps({**record, "fingerprint": "another"}))
        with pytest.raises(ConfigError, match="holds the answers of another run"):
            run(oracle, asked, tmp_path)


def test_every_prompt_answer_and_score_is_on_disk(asked, tmp_path):
    with serving(Oracle(plan=asked[3])) as oracle:
        results = run(oracle, asked, tmp_path)
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(samples) == sum(suite["score"]["questions"] for suite in results["suites"])
    for sample in samples:
        assert sample["prompt"]
        assert sample["answer"] in asked[3].values()
        assert sample["score"] in {0.0, 1.0}
        assert sample["gold"]
    assert results["harness"].startswith("0.4")
    assert all(len(digest) == 64 for suite in results["suites"] for digest in suite["yaml_sha256"].values())
    assert "api_key" not in results["settings"]


def test_a_store_keeps_what_it_was_given(tmp_path):
    store = Store(tmp_path / "store.jsonl")
    store.put("a", {"text": "Grüße\n你好"})
    store.put("a", {"text": "never"})
    store.close()
    again = Store(tmp_path / "store.jsonl")
    assert again.get("a") == {"text": "Grüße\n你好"}
    assert len(again) == 1
    again.close()
    (tmp_path / "bad.jsonl").write_text("not json\n")
    with pytest.raises(ConfigError, match=r"bad.jsonl line 1 is not an answer"):
        Store(tmp_path / "bad.jsonl")
