"""vLLM with our plugin passes the suite of all engines, under stress: odd chunks, few blocks, both schemes."""

from __future__ import annotations

import pytest
from vllm.exceptions import VLLMValidationError

from tests.engine_suite import SHAPES, Basics, Limited, Penalties, Preempting, prompts
from tests.vllm.engine import ask, counter, tight


@pytest.fixture(scope="module", params=SHAPES, ids=lambda shape: f"n{shape[0]}-{shape[1]}")
def engine(request, checkpoint):
    n, scheme = request.param
    with tight(checkpoint(n, scheme), n, scheme) as adapter:
        yield adapter


class TestVllm(Basics, Penalties, Preempting, Limited):
    def test_a_prompt_beyond_the_context_is_refused_in_tokens(self, engine):
        with pytest.raises(VLLMValidationError, match="maximum context length is 128 tokens"):
            ask(engine.llm, [prompts(1, seed=41)[0] * 200])

    def test_vllm_counts_prefix_hits(self, engine):
        case = [5, 9, 300] * 20
        engine.match([case])
        before = counter(engine.llm, "prefix_cache_hits")
        engine.match([case])
        assert counter(engine.llm, "prefix_cache_hits") == before + (len(case) - 1) // engine.block * engine.block
