"""SGLang with our plugin against brute force: odd chunks, few slots, shared prefixes, both schemes."""

from __future__ import annotations

import pytest

from tests.equivalence.tolerances import FP32_ENGINE_LOGPROBS
from tests.sglang.engine import (
    CONTEXT,
    ask,
    assert_all_match,
    expected_greedy,
    prompts,
    reference,
    started,
)
from tests.support import assert_same_greedy

CASES = [(1, "contiguous"), (2, "linear"), (4, "contiguous"), (8, "linear")]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"n{case[0]}-{case[1]}")
def tight(request, tiny_checkpoint):
    """(engine, n, scheme) with steps of 13 tokens and a cache for little more than one request of 256 tokens."""
    n, scheme = request.param
    with started(tiny_checkpoint(n, scheme)) as engine:
        yield engine, n, scheme


def test_one_request(tight):
    assert_all_match(*tight, prompts(1, seed=1))


def test_sixteen_mixed_requests(tight):
    assert_all_match(*tight, prompts(16))


def test_prefix_hits_full_and_partial(tight):
    engine, n, scheme = tight
    base = prompts(1, seed=31)[0] + [7, 300, 42] * 10
    engine.flush_cache()
    [first] = assert_all_match(engine, n, scheme, [base])
    [full] = assert_all_match(engine, n, scheme, [base])
    [partial] = assert_all_match(engine, n, scheme, [[*base[:17], 511, 3, 99]])
    cached = [answer["meta_info"]["cached_tokens"] for answer in (first, full, partial)]
    assert cached == [0, len(base) - 1, 17]


def test_log_probabilities(tight):
    """Of every prompt token and every generated one, read in chunks, several requests at once."""
    engine, n, scheme = tight
    cases = prompts(4, seed=5)
    for ids, answer in zip(cases, ask(engine, cases, logprobs=True), strict=True):
        text = ids + answer["output_ids"]
        expected_TV = reference(n, scheme).logits(text).log_softmax(-1)
        info = answer["meta_info"]
        given = [*info["input_token_logprobs"][1:], *info["output_token_logprobs"]]
        assert len(given) == len(text) - 1
        for index, (logprob, token, _) in enumerate(given):
            assert token == text[index + 1]
            error = abs(logprob - float(expected_TV[index, token]))
            assert error <= FP32_ENGINE_LOGPROBS, f"token {index + 1} of {len(ids)}: off by {error:.1e}"


def test_close_to_the_context_limit_in_tokens(tight):
    """SGLang keeps a few tokens of the context for itself; past it a prompt is refused."""
    engine, n, scheme = tight
    ids = (prompts(1, seed=41)[0] * CONTEXT)[: CONTEXT - 16]
    [answer] = ask(engine, [ids], max_new_tokens=5)
    expected, gaps = expected_greedy(n, scheme, tuple(ids), 5)
    assert_same_greedy(answer["output_ids"], expected, gaps, FP32_ENGINE_LOGPROBS)
    with pytest.raises(ValueError, match=r"exceeds|longer than"):
        ask(engine, [(ids * 2)[: CONTEXT + 1]])
