"""The formula against PyTorch's own counter of operations, on the real model."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hidden_decoding.modeling.flops import forward_flops_per_token, training_flops_per_token
from tests.support import tiny_model

TOKENS = 24


def counted(model, *, backward: bool) -> dict[str, int]:
    ids = torch.randint(1, 500, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        if backward:
            loss.backward()
    return {str(op): flops for op, flops in counter.get_flop_counts()["Global"].items()}


@pytest.mark.parametrize("n", [1, 2, 4])
def test_forward_operations_are_those_that_pytorch_counts(n):
    model = tiny_model(n)
    model.config._attn_implementation = "eager"
    found = counted(model, backward=False)
    expected = forward_flops_per_token(model.config, TOKENS)
    whole_square = 2 * expected.attention * (n * TOKENS) / (n * TOKENS + 1) * TOKENS  # eager computes masked pairs too
    assert found["aten.mm"] == TOKENS * (expected.layers + expected.head)
    assert found["aten.bmm"] == pytest.approx(whole_square, rel=1e-12)


def test_backward_costs_twice_the_forward():
    model = tiny_model(2)
    model.config._attn_implementation = "eager"
    forward = counted(model, backward=False)["aten.mm"]
    both = counted(model, backward=True)["aten.mm"]
    flops = forward_flops_per_token(model.config, TOKENS)
    assert both == 3 * forward
    assert training_flops_per_token(model.config, TOKENS) == 3 * flops.total
