"""`torch_native` for slots that own n rows: causal attention in plain PyTorch, one request after the other, any device.

    rows of new tokens [P, H, E] attend to the rows of all tokens of their request, up to and including themselves

Contract: prompts and decoding are the same computation on different lengths. Used by `backend`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.mem_cache.memory_pool import KVWriteLoc
from torch.nn.functional import scaled_dot_product_attention

from hidden_decoding.engines.sglang.backend import KnowsStreams
from hidden_decoding.engines.sglang.rows import seen_by_kernels
from hidden_decoding.streams import expand_positions, tokens_to_positions

if TYPE_CHECKING:
    from sglang.srt.layers.radix_attention import RadixAttention
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch
    from torch import Tensor


def attend(
    query_PHE: Tensor, keys: Tensor, values: Tensor, rows_of: list[Tensor], new_rows: list[int], scale: float
) -> Tensor:
    """[P, H, E] -> [P, H, E]; `rows_of` has all rows of each request in order, `new_rows` how many of them are new.

    `keys` and `values` are the pool's rows, [rows, K, E].
    """
    output, start = torch.zeros_like(query_PHE), 0
    for rows, new in zip(rows_of, new_rows, strict=True):
        end = start + new
        key, value = (x[rows].movedim(0, 1).to(query_PHE.dtype) for x in (keys, values))
        query = query_PHE[start:end].movedim(0, 1)
        mask = torch.ones(new, key.shape[1], dtype=torch.bool, device=query.device)
        attended = scaled_dot_product_attention(
            query[None],
            key[None],
            value[None],
            attn_mask=mask.tril(key.shape[1] - new),
            scale=scale,
            enable_gqa=query.shape[0] != key.shape[0],
        )
        output[start:end] = attended[0].movedim(0, 1)
        start = end
    return output


class ScaleSeqTorchNative(KnowsStreams, TorchNativeAttnBackend):
    """SGLang's `torch_native`, counting rows."""

    def __init__(self, model_runner: Any, num_streams: int) -> None:
        super().__init__(seen_by_kernels(model_runner, num_streams))
        self.num_streams = num_streams

    def forward_extend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layer: RadixAttention,
        forward_batch: ForwardBatch,
        save_kv_cache: bool = True,
    ) -> Tensor:
        """Rows of the new tokens of prompts, [P, H * E]."""
        return self.on_rows(q, k, v, layer, forward_batch, save_kv_cache, forward_batch.extend_seq_lens.tolist())

    def forward_decode(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layer: RadixAttention,
        forward_batch: ForwardBatch,
        save_kv_cache: bool = True,
    ) -> Tensor:
        """Rows of one new token per request, [P, H * E]."""
        return self.on_rows(q, k, v, layer, forward_batch, save_kv_cache, [1] * len(forward_batch.seq_lens))

    def on_rows(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layer: RadixAttention,
        forward_batch: ForwardBatch,
        save_kv_cache: bool,
        new_tokens: list[int],
    ) -> Tensor:
        """Writes K and V of the rows into the slots of their tokens, then attends."""
        pool, n = self.token_to_kv_pool, self.num_streams
        if save_kv_cache:
            key, value = (x.view(-1, layer.tp_k_head_num, layer.head_dim) for x in (k, v))
            pool.set_kv_buffer(layer, KVWriteLoc(forward_batch.out_cache_loc, None), key, value)
        tables = self.req_to_token_pool.req_to_token[forward_batch.req_pool_indices]
        lengths = forward_batch.seq_lens.tolist()
        keys, values = pool.get_kv_buffer(layer.layer_id)
        attended = attend(
            q.view(-1, layer.tp_q_head_num, layer.head_dim),
            keys,
            values,
            [expand_positions(table[:length], n) for table, length in zip(tables, lengths, strict=True)],
            [tokens_to_positions(new, n) for new in new_tokens],
            layer.scaling,
        )
        return attended.flatten(-2)
