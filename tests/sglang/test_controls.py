"""Negative control: an engine that reads the architecture as plain Qwen3 fails the suite's own check."""

from __future__ import annotations

import pytest

from tests.sglang.engine import assert_all_match, prompts, started
from tests.support import plain_qwen3, tiny_model, tiny_tokenizer

N, SCHEME = 4, "contiguous"


def test_stock_qwen3_fails(tmp_path):
    """What a silent fallback would serve: the same backbone without the expansion."""
    plain_qwen3(tiny_model(N, SCHEME)).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with started(tmp_path) as engine, pytest.raises(AssertionError, match="reference says"):
        assert_all_match(engine, N, SCHEME, prompts(8, seed=2))
