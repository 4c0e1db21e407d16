"""Next-token loss on the last stream of each token, without ever holding all logits.

Contract: `CausalLoss(model)(ids_BT, position_ids_BT, targets_BT)` is the *sum* in nats over tokens that have a target,
in float32. The backbone returns last streams h_BTD; the head runs over chunks of tokens, and the backward pass
recomputes each chunk's logits, so memory holds [chunk, V] and not [B * T, V]. It is a module around the whole model
because sharding gathers weights when a module is called: backbone and head are then one call.

Place in the flow: between `data.py` and `loop.py`; sharded from outside by `parallelize.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from hidden_decoding.train.data import NO_TARGET


class CausalLoss(nn.Module):
    """`model` with its loss; `chunk_tokens` bounds how many tokens' logits exist at a time."""

    def __init__(self, model: Any, chunk_tokens: int) -> None:
        super().__init__()
        self.model = model
        self.chunk_tokens = chunk_tokens

    def forward(self, ids_BT: Tensor, position_ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Sum of the losses in nats: a scalar."""
        outputs = self.model.model(input_ids=ids_BT, position_ids=position_ids_BT, use_cache=False)
        hidden = outputs.last_hidden_state.flatten(0, 1).split(self.chunk_tokens)
        targets = targets_BT.flatten().split(self.chunk_tokens)
        if len(hidden) == 1 or not torch.is_grad_enabled():
            parts = [self._chunk(h, t) for h, t in zip(hidden, targets, strict=True)]
        else:
            parts = [checkpoint(self._chunk, h, t, use_reentrant=False) for h, t in zip(hidden, targets, strict=True)]
        return torch.stack(parts).sum()

    def _chunk(self, hidden: Tensor, targets: Tensor) -> Tensor:
        logits = self.model.lm_head(hidden).float()
        return functional.cross_entropy(logits, targets, ignore_index=NO_TARGET, reduction="sum")
