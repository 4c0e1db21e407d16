"""The load test's judgement: what its clients call right, wrong, or another's answer, and how its ledger counts."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
QUESTIONS = [
    {"prompt": [1], "answer": [5, 6, 7, 8], "text": "abcd", "certain": 4},
    {"prompt": [2], "answer": [9, 10, 11, 12], "text": "wxyz", "certain": 4},
    {"prompt": [3], "answer": [5, 6, 1, 1], "text": "ab..", "certain": 2},
]


def load_script(name: str):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def clients():
    return load_script("load_clients").Clients("http://127.0.0.1:9", QUESTIONS, random.Random(0), "0.0")


@pytest.mark.parametrize(
    ("number", "ids", "text", "whole", "outcome"),
    [
        (0, [5, 6, 7, 8], "abcd", True, "right"),
        (0, [5, 6], "a", False, "left"),  # text may lag behind the tokens
        (0, [5, 6, 7, 9], "abcd", True, "wrong"),
        (0, [5, 6, 7], "abc", True, "wrong"),  # lost its end
        (0, [5, 6, 7, 8], "abc", True, "wrong"),  # lost text
        (0, [5, 6, 7, 8, 8], "abcdd", True, "wrong"),
        (0, [9, 10, 11, 12], "wxyz", True, "mixed_up"),
        (1, [5, 6, 7], "abc", False, "mixed_up"),
        (2, [5, 6, 2, 2], "ab!!", True, "right"),  # after a tie anything goes, but not another length
        (2, [5, 6, 2], "ab!", True, "wrong"),
        (2, [5, 7, 1, 1], "ax..", True, "wrong"),
    ],
)
def test_an_answer_is_judged_by_its_own_oracle(clients, number, ids, text, whole, outcome):
    assert clients._compared(number, ids, text, whole=whole)["outcome"] == outcome


def test_what_a_process_leaves_open_is_killed_or_lost():
    ledger = load_script("load_test").Ledger()
    for name in ("3.0-1", "3.0-2", "3.1-1"):
        ledger.note({"event": "start", "id": name, "kind": "stream", "question": 0})
    ledger.note({"event": "end", "id": "3.0-1", "kind": "stream", "outcome": "right", "tokens": 4, "gap": 0.5})
    ledger.close("3.0", "killed")
    assert ledger.outcomes == {"right": 1, "killed": 1}
    ledger.close("3.1", "lost")
    assert ledger.outcomes["lost"] == 1
    assert not ledger.open
    assert (ledger.tokens_compared, ledger.longest_gap) == (4, 0.5)
    assert ledger.examples[0]["outcome"] == "lost"


def test_growth_is_measured_after_the_warm_up():
    load_test = load_script("load_test")
    samples = [{"second": s, "anonymous": 100 if s < 20 else 200 + (10 if s > 80 else 0)} for s in range(101)]
    assert load_test.memory_growth(samples, 0.2)["growth"] == pytest.approx(0.05)
