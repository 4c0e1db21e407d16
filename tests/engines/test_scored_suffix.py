"""Scoring only a prompt's end: the numbers are those of scoring all of it, while its beginning comes from the cache."""

from __future__ import annotations

import pytest

from hidden_decoding.engines.local.engine import LocalEngine
from hidden_decoding.engines.local.sampling_params import SamplingParams
from hidden_decoding.errors import RequestError
from tests.equivalence.tolerances import FP32_LOGITS
from tests.support import tiny_model

SHARED = [5 + 3 * index % 400 for index in range(70)]
ENDINGS = [[7, 8, 9], [300], [41, 42, 43, 44, 45], [300, 301]]


@pytest.fixture(scope="module", params=[1, 3])
def model(request):
    return tiny_model(request.param)


def score(engine, prompt, start, **fields):
    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=1, logprob_start_len=start, **fields)
    [output] = engine.generate([prompt], params)
    assert len(output.prompt_logprobs) == len(prompt)
    return output


@pytest.mark.parametrize("step_tokens", [None, 9])
@pytest.mark.parametrize("start", [0, 1, 16, 69, 70, 71])
def test_equals_scoring_everything(model, start, step_tokens):
    """Whole steps and chunks; the first question fills the cache, the others use it."""
    limits = {"kv_cache_memory_bytes": "8MiB", "max_num_batched_tokens": step_tokens}
    fresh = LocalEngine.from_model(model, **limits, enable_prefix_caching=False)
    caching = LocalEngine.from_model(model, **limits)
    cached = []
    for ending in ENDINGS:
        whole, part = score(fresh, SHARED + ending, 0), score(caching, SHARED + ending, start)
        first = max(1, start)
        assert part.prompt_logprobs[:first] == [None] * min(first, len(SHARED + ending))
        for got, expected in zip(part.prompt_logprobs[first:], whole.prompt_logprobs[first:], strict=True):
            assert got.token_id == expected.token_id
            assert got.logprob == pytest.approx(expected.logprob, abs=FP32_LOGITS)
        assert part.token_ids == whole.token_ids
        cached.append(part.cached_tokens)
    blocks = max(start - 1, 0) // 16 * 16
    assert cached == [0] + [min(blocks, 64)] * (len(ENDINGS) - 1)


def test_a_start_beyond_the_prompt_scores_nothing(model):
    engine = LocalEngine.from_model(model, kv_cache_memory_bytes="8MiB")
    assert score(engine, SHARED, 1000).prompt_logprobs == [None] * len(SHARED)


def test_a_negative_start_is_refused():
    with pytest.raises(RequestError, match="logprob_start_len"):
        SamplingParams(logprob_start_len=-1)
