"""Features of SGLang that need an engine of their own: penalties, retraction, tensor parallelism."""

from __future__ import annotations

import pytest

from tests.equivalence.tolerances import FP32_ENGINE_LOGPROBS
from tests.penalties import PENALTIES, penalised
from tests.sglang.engine import NEW, ask, assert_all_match, prompts, reference, started
from tests.support import assert_same_greedy, save_tiny_checkpoint


@pytest.mark.parametrize(("n", "scheme"), [(1, "contiguous"), (4, "linear")])
def test_penalties_count_tokens(tiny_checkpoint, n, scheme):
    """SGLang subtracts before it scales, and counts only generated tokens as repeated.

    Its overlapped scheduler draws a token before the one before it is counted, so it is off here.
    """
    cases = [ids * 2 for ids in prompts(3, seed=51, longest=12)]
    order = {"additive_first": True, "repeats_prompt": False}
    with started(tiny_checkpoint(n, scheme), disable_overlap_schedule=True) as engine:
        for penalties in PENALTIES:
            for ids, answer in zip(cases, ask(engine, cases, **penalties), strict=True):
                expected, gaps = penalised(reference(n, scheme), ids, NEW, **penalties, **order)
                assert_same_greedy(answer["output_ids"], expected, gaps, FP32_ENGINE_LOGPROBS)


def test_retracted_requests_go_on_as_if_nothing_had_happened(tiny_checkpoint, monkeypatch):
    """SGLang takes slots away every third step and computes them again."""
    monkeypatch.setenv("SGLANG_TEST_RETRACT", "1")
    with started(tiny_checkpoint(4, "linear")) as engine:
        answers = assert_all_match(engine, 4, "linear", prompts(8))
    assert sum(answer["meta_info"]["num_retractions"] for answer in answers) > 0, "nothing was retracted"


def test_two_tensor_parallel_ranks(tmp_path, monkeypatch):
    save_tiny_checkpoint(tmp_path, 4)
    monkeypatch.setenv("SGLANG_CPU_OMP_THREADS_BIND", "0|1")
    with started(tmp_path, tp_size=2) as engine:
        assert_all_match(engine, 4, "contiguous", prompts(6))
