"""Causal attention over slots that own n rows, in plain PyTorch: one request after the other, any device.

    rows of new tokens [P, H, E] attend to the rows of all tokens of their request, up to and including themselves

Used by `backend`. Lengths and slots count tokens; only queries, keys and values have rows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hidden_decoding.streams import split_streams, tokens_to_positions


def rows_to_slots(x_PKE: Tensor, num_streams: int) -> Tensor:
    """[P, K, E] -> [T, n heads side by side, E]: what one slot of the pool keeps for a token."""
    heads = x_PKE.shape[-2:]
    return split_streams(x_PKE.flatten(-2), num_streams).unflatten(-1, heads).flatten(-3, -2)


def slots_to_rows(slots: Tensor, kv_heads: int) -> Tensor:
    """[T, n heads side by side, E] -> [P, K, E]: the inverse of `rows_to_slots`."""
    return slots.unflatten(-2, (-1, kv_heads)).flatten(0, 1)


def attend(
    query_PHE: Tensor,
    keys: Tensor,
    values: Tensor,
    slots_of: list[Tensor],
    new_tokens: list[int],
    kv_heads: int,
    num_streams: int,
    scale: float,
) -> Tensor:
    """[P, H, E] -> [P, H, E]; `slots_of` has the slots of all tokens of each request, `new_tokens` how many are new.

    `keys` and `values` are the pool's buffers, [slots, n heads side by side, E].
    """
    output, start = torch.zeros_like(query_PHE), 0
    for slots_T, new in zip(slots_of, new_tokens, strict=True):
        end = start + tokens_to_positions(new, num_streams)
        key, value = (slots_to_rows(x[slots_T], kv_heads).movedim(0, 1).to(query_PHE.dtype) for x in (keys, values))
        query = query_PHE[start:end].movedim(0, 1)
        mask = torch.ones(end - start, key.shape[1], dtype=torch.bool, device=query.device)
        attended = scaled_dot_product_attention(
            query[None],
            key[None],
            value[None],
            attn_mask=mask.tril(key.shape[1] - (end - start)),
            scale=scale,
            enable_gqa=query.shape[0] != kv_heads,
        )
        output[start:end] = attended[0].movedim(0, 1)
        start = end
    return output
