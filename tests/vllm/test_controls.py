"""Negative controls: with the expansion disabled, or wrong in one detail, the suite's own check fails."""

from __future__ import annotations

import pytest
import torch

from hidden_decoding.engines.vllm import layers, model
from tests.engine_suite import prompts
from tests.vllm.engine import assert_all_match, live_model, started

N, SCHEME = 4, "contiguous"
CASES = prompts(8, seed=2)


def test_stock_qwen3_fails(checkpoint):
    """What an engine does that reads our architecture as plain Qwen3: no expansion at all."""
    with started(checkpoint(N, SCHEME, stock=True), 1) as llm, pytest.raises(AssertionError, match="reference says"):
        assert_all_match(llm, N, SCHEME, CASES)


@pytest.fixture(scope="module")
def wide(checkpoint):
    """An engine with n = 4 that reuses no earlier K and V."""
    with started(checkpoint(N, SCHEME), N, enable_prefix_caching=False) as llm:
        yield llm


def check(llm):
    return assert_all_match(llm, N, SCHEME, CASES)


def test_untouched_it_passes(wide):
    check(wide)


def test_the_first_table_for_all_streams_fails(wide, monkeypatch):
    backbone = live_model(wide).model
    monkeypatch.setattr(backbone, "embed_streams", lambda ids: torch.stack([backbone.embed_tokens(ids)] * N, dim=-2))
    with pytest.raises(AssertionError, match="reference says"):
        check(wide)


def test_swapped_tables_fail(wide):
    backbone = live_model(wide).model
    first, second = backbone.embed_tokens.weight.data, backbone.scale_seq_embed_tokens_list[0].weight.data
    kept = first.clone()
    first.copy_(second)
    second.copy_(kept)
    with pytest.raises(AssertionError, match="reference says"):
        check(wide)
    second.copy_(first)
    first.copy_(kept)
    check(wide)


def test_reading_stream_n_minus_2_fails(wide, monkeypatch):
    monkeypatch.setattr(layers, "last_rows", lambda h, n: h if n == 1 else h[n - 2 :: n].contiguous())
    with pytest.raises(AssertionError, match="reference says"):
        check(wide)


def test_positions_that_count_tokens_fail(wide, monkeypatch):
    monkeypatch.setattr(model, "expand_positions", lambda positions, n: positions.repeat_interleave(n))
    with pytest.raises(AssertionError, match="reference says"):
        check(wide)
