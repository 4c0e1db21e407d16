"""Controls: with the expansion disabled the suite's own check fails; with no flags of the suite's own it holds."""

from __future__ import annotations

import pytest

from tests.engine_suite import prompts
from tests.sglang.engine import tight
from tests.support import plain_qwen3, save_tiny_checkpoint, tiny_model, tiny_tokenizer

N, SCHEME = 4, "contiguous"


def test_stock_qwen3_fails(tmp_path):
    """What a silent fallback would serve: the same backbone without the expansion."""
    plain_qwen3(tiny_model(N, SCHEME)).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with tight(tmp_path, N, SCHEME) as engine, pytest.raises(AssertionError, match="reference says"):
        engine.match(prompts(8, seed=2))


def test_a_launch_without_the_suites_flags_passes(tmp_path):
    """The suite sets its own step and slots; users set neither."""
    save_tiny_checkpoint(tmp_path, N, SCHEME)
    with tight(tmp_path, N, SCHEME, chunked_prefill_size=None, max_total_tokens=None) as engine:
        engine.match(prompts(8, seed=2))
