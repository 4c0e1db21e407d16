"""The judge sees question, reference and answer; its verdicts are kept, stand beside the rules' and are listed."""

from __future__ import annotations

import re

import pytest

from hidden_decoding.engines.local.engine_config import EngineConfig
from hidden_decoding.evaluate.models import ModelSpec, open_model
from hidden_decoding.evaluate.pack import load_pack
from hidden_decoding.evaluate.report import Report, _report, remarks
from hidden_decoding.evaluate.report_pages import markdown
from hidden_decoding.evaluate.run import evaluate_model, prepare
from hidden_decoding.evaluate.settings import EvalConfig
from tests.evaluate.oracle import Oracle, serving
from tests.evaluate.planting import needle_of

SAID = ["\\boxed{{{gold}}}", "It equals {gold}, as shown above. Hope this helps!", "\\boxed{{0}}", "?"]


class JudgeOracle(Oracle):
    """Right when the reference stands anywhere in the answer; once it gives no verdict."""

    def chat(self, body):
        user = body["messages"][-1]["content"]
        gold = re.search(r"Reference answer:\n(.*)\n\nStudent's", user, re.DOTALL).group(1)
        answer = re.search(r"Student's answer:\n(.*)\n\nEnd with", user, re.DOTALL).group(1)
        said = "I cannot tell." if answer == "?" else "Compared.\n" + ("CORRECT" if gold in answer else "INCORRECT")
        return {"choices": [{"message": {"content": said}}], "usage": {}}


@pytest.fixture
def results(data, tmp_path):
    pack = load_pack("instruct")
    config = EvalConfig(data=data, suite=("math500",), limit=8)
    [entry] = prepared = prepare(pack, config, progress=False)
    from hidden_decoding.evaluate.scores import gold_of

    golds = [gold_of(entry.suite, item.doc) for item in entry.items]
    plan = {
        needle_of(item): SAID[number % 4].format(gold=gold)
        for number, (item, gold) in enumerate(zip(entry.items, golds, strict=True))
    }
    with serving(Oracle(plan=plan)) as oracle, serving(JudgeOracle()) as judge:
        judged = EvalConfig(**{**vars(config), "judge_url": judge.url})
        runs = []
        for _ in range(2):
            with open_model(ModelSpec(name=f"{oracle.url}#oracle"), "local", judged, EngineConfig()) as opened:
                runs.append(evaluate_model(opened, pack, prepared, judged, tmp_path, progress=False))
        assert max(judge.asked.values()) == 1
        assert sum(judge.asked.values()) == len(golds)
    assert runs[0] == runs[1]
    return runs[0], len(golds)


def test_both_figures_and_where_they_differ(results):
    run, count = results
    [suite] = run["suites"]
    kinds = [number % 4 for number in range(count)]
    assert suite["score"]["mean"] == pytest.approx(100 * kinds.count(0) / count, abs=1e-3)
    judged = suite["judged"]
    assert judged["score"]["mean"] == pytest.approx(100 * (kinds.count(0) + kinds.count(1)) / count, abs=1e-3)
    assert judged["without_verdict"] == kinds.count(3)
    assert {entry["doc"] % 4 for entry in judged["disagreement_list"]} == {1, 3} & set(kinds)
    assert judged["prompt_version"] == 1
    report: Report = _report("instruct", [run])
    text = markdown([report])
    assert "Judge and rules differ" in text
    assert f"{judged['score']['mean']:.2f} ({judged['disagreements']} differ)" in text
    assert not any("No judge" in line for line in remarks(report))


def test_a_run_without_a_judge_says_so(results):
    run = {**results[0], "judge": None}
    assert "No judge was asked (--judge-url): all figures are by rules." in remarks(_report("instruct", [run]))
