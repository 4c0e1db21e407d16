"""The tensors behind the block pool: keys and values of all layers, one row per position.

Contract: slot s (a token) owns rows s * n ... s * n + n - 1 of every layer. Layout [layers, K, rows, E], so that the
rows of a request that lie side by side are attended to in place, without copying.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hidden_decoding.streams import kv_bytes_per_token, tokens_to_positions

if TYPE_CHECKING:
    from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig


class KVPool:
    """K and V for `capacity_tokens` tokens. Memory is touched only as it is used."""

    def __init__(
        self, config: Qwen3ScaleSeqConfig, capacity_tokens: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.capacity_tokens = capacity_tokens
        # One slot more, nobody's: where the unused rows of a padded decode step write.
        self.scratch_slot = capacity_tokens
        rows = tokens_to_positions(capacity_tokens + 1, config.num_streams)
        shape = (config.num_hidden_layers, config.num_key_value_heads, rows, config.head_dim)
        self.keys_LKPE = torch.empty(shape, dtype=dtype, device=device)
        self.values_LKPE = torch.empty(shape, dtype=dtype, device=device)

    def write(self, layer: int, rows_P: torch.Tensor, keys_KPE: torch.Tensor, values_KPE: torch.Tensor) -> None:
        """Stores new rows of one layer at their places."""
        self.keys_LKPE[layer].index_copy_(1, rows_P, keys_KPE)
        self.values_LKPE[layer].index_copy_(1, rows_P, values_KPE)


def bytes_per_token(config: Qwen3ScaleSeqConfig, dtype: torch.dtype) -> int:
    """Bytes of KV that one token takes: all layers, all n rows."""
    return kv_bytes_per_token(
        config.num_streams, config.num_hidden_layers, config.num_key_value_heads, config.head_dim, dtype.itemsize
    )
