"""Negative controls: with the expansion disabled the suite's own check fails."""

from __future__ import annotations

import pytest

from tests.engine_suite import prompts
from tests.sglang.engine import tight
from tests.support import plain_qwen3, tiny_model, tiny_tokenizer

N, SCHEME = 4, "contiguous"


def test_stock_qwen3_fails(tmp_path):
    """What a silent fallback would serve: the same backbone without the expansion."""
    plain_qwen3(tiny_model(N, SCHEME)).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with tight(tmp_path, N, SCHEME) as engine, pytest.raises(AssertionError, match="reference says"):
        engine.match(prompts(8, seed=2))
