"""vLLM with our plugin against brute force, all under stress: odd chunks, few blocks, shared prefixes, both schemes."""

from __future__ import annotations

import pytest
from vllm.exceptions import VLLMValidationError

from tests.equivalence.tolerances import FP32_ENGINE_LOGPROBS
from tests.penalties import PENALTIES, penalised
from tests.support import assert_same_greedy
from tests.vllm.engine import (
    CPU_BLOCK_ROWS,
    NEW,
    ask,
    assert_all_match,
    counter,
    expected_greedy,
    prompts,
    recorded_steps,
    reference,
    started,
    tokens_of,
)

CHUNK = 13  # tokens per step: divides neither a block (32, 16, 8 or 4 tokens) nor the prompts that are asked
CASES = [(1, "contiguous"), *((n, scheme) for n in (2, 4, 8) for scheme in ("contiguous", "linear"))]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"n{case[0]}-{case[1]}")
def tight(request, checkpoint):
    """(engine, n, scheme) with steps of 13 tokens and a cache for little more than one request of 128 tokens."""
    n, scheme = request.param
    blocks = 160 * n // CPU_BLOCK_ROWS + 2
    options = {"max_num_batched_tokens": CHUNK, "max_num_seqs": 8, "num_gpu_blocks_override": blocks}
    with started(checkpoint(n, scheme), n, **options) as llm:
        yield llm, n, scheme


def test_one_request(tight):
    llm, n, scheme = tight
    for seed in range(3):
        assert_all_match(llm, n, scheme, prompts(1, seed=seed))


def test_sixteen_mixed_requests_are_preempted_and_right(tight):
    before = counter(tight[0], "num_preemptions")
    assert_all_match(*tight, prompts(16))
    assert counter(tight[0], "num_preemptions") > before, "nothing was preempted: this shows too little"


def test_chunks_end_between_tokens(tight):
    """No boundary of a chunk falls inside the n positions of a token, though the chunk divides nothing."""
    llm, n, scheme = tight
    cases = [ids * 3 for ids in prompts(3, seed=21, longest=25)] + [prompts(1, seed=22)[0][:30]]
    assert any(len(ids) % CHUNK for ids in cases)
    with recorded_steps(llm) as steps:
        assert_all_match(llm, n, scheme, cases)
    sizes = []
    for rows in steps:
        first_rows = rows[::n]
        assert len(rows) % n == 0
        assert all(row % n == 0 for row in first_rows)
        assert rows == [row + stream for row in first_rows for stream in range(n)]
        sizes.append(len(first_rows))
    assert max(sizes) == CHUNK, "no chunk was full"
    assert len(steps) > sum(map(len, cases)) // CHUNK


def test_prefix_hits_full_and_partial(tight):
    llm, n, scheme = tight
    block = CPU_BLOCK_ROWS // n
    [base] = prompts(1, seed=31, longest=1)
    base = [*base, 7, 300, 42] * 20
    shared = base[: 2 * block + 3]
    assert_all_match(llm, n, scheme, [shared])  # also clears the cache of others
    before = counter(llm, "prefix_cache_hits")
    [full] = assert_all_match(llm, n, scheme, [shared])
    assert full.num_cached_tokens == 2 * block
    [partial] = assert_all_match(llm, n, scheme, [shared[: block + 1] + prompts(1, seed=33)[0][:20]])
    assert partial.num_cached_tokens == block
    assert counter(llm, "prefix_cache_hits") == before + 3 * block


def test_log_probabilities(tight):
    """Of every prompt token and every generated one, read in chunks, several requests at once."""
    llm, n, scheme = tight
    cases = prompts(4, seed=5)
    for ids, output in zip(cases, ask(llm, cases, prompt_logprobs=0, logprobs=0), strict=True):
        text = ids + tokens_of(output)
        expected_TV = reference(n, scheme).logits(text).log_softmax(-1)
        given = [*output.prompt_logprobs[1:], *output.outputs[0].logprobs]
        for index, entry in enumerate(given):
            error = abs(entry[text[index + 1]].logprob - float(expected_TV[index, text[index + 1]]))
            assert error <= FP32_ENGINE_LOGPROBS, f"token {index + 1} of {len(ids)}: off by {error:.1e}"


def test_stop_at_the_context_limit_in_tokens(tight):
    llm, n, scheme = tight
    ids = (prompts(1, seed=41)[0] * 130)[: 128 - 5]
    [output] = ask(llm, [ids], max_tokens=50)
    expected, gaps = expected_greedy(n, scheme, tuple(ids), 5)
    assert_same_greedy(tokens_of(output), expected, gaps, FP32_ENGINE_LOGPROBS)
    assert output.outputs[0].finish_reason == "length"
    with pytest.raises(VLLMValidationError, match="maximum context length is 128 tokens"):
        ask(llm, [ids + ids[:6]])


@pytest.mark.parametrize("penalties", PENALTIES, ids="+".join)
def test_penalties_count_tokens(tight, penalties):
    """A token seen once counts once, not n times."""
    llm, n, scheme = tight
    cases = [ids * 2 for ids in prompts(3, seed=51, longest=12)]
    for ids, output in zip(cases, ask(llm, cases, **penalties), strict=True):
        expected, gaps = penalised(reference(n, scheme), ids, NEW, **penalties)
        assert_same_greedy(tokens_of(output), expected, gaps, FP32_ENGINE_LOGPROBS)
