"""n-gram drafts. Its file is the last that starts an engine in this process: n-gram loads numba, whose library wrapper
breaks vLLM 0.32's search through all modules when a further engine starts.
"""

from __future__ import annotations

from tests.engine_suite import prompts
from tests.vllm.engine import assert_all_match, counter, expected_greedy, started


def test_ngram_drafts(checkpoint):
    """Drafts of whole tokens are verified, some are taken, and the text is the greedy one."""
    n = 4
    drafts = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
    [start] = prompts(1, seed=71, longest=12)
    text, _ = expected_greedy(n, "contiguous", tuple(start), 40)
    case = start + text  # its own continuation is in the prompt again below, so that drafts can be right
    with started(checkpoint(n), n, speculative_config=drafts) as llm:
        assert_all_match(llm, n, "contiguous", [case + start + text[:5], *prompts(4, seed=72)])
        assert counter(llm, "spec_decode_num_draft_tokens") > 0
        loop = [9, 8, 7] * 12
        assert_all_match(llm, n, "contiguous", [loop])
