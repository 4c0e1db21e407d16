"""`triton` for slots that own n rows: SGLang's extend kernel, for prompts and for decoded tokens alike.

SGLang's decode kernel has one query per request and no causal mask. A decoded token is n queries under one, which is
what extending a request by n rows is: so decoding hands the extend kernel the rows of earlier tokens and n new ones.

Contract: row numbers instead of slots, offsets times n; for captured batches in buffers made once. The kernels ran in
Triton's interpreter only (tests/sglang): **no GPU has run this**. Used by `backend`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from sglang.srt.layers.attention.triton_backend import ForwardMetadata, TritonAttnBackend

from hidden_decoding.engines.sglang.backend import KnowsStreams, only_decoding
from hidden_decoding.engines.sglang.rows import seen_by_kernels
from hidden_decoding.streams import expand_offsets, expand_slots, tokens_to_positions

if TYPE_CHECKING:
    from sglang.srt.layers.radix_attention import RadixAttention
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch
    from torch import Tensor


def extension(kv_indptr: Tensor, kv_indices: Tensor, qo_indptr: Tensor, longest: int) -> ForwardMetadata:
    """What the extend kernel needs: offsets and rows of what is cached, offsets of the new rows, the most of them."""
    unused = dict.fromkeys(("attn_logits", "attn_lse", "num_kv_splits", "custom_mask", "mask_indptr"))
    windows = ("window_kv_indptr", "window_kv_indices", "window_num_kv_splits", "window_kv_offsets")
    return ForwardMetadata(
        max_extend_len=longest,
        kv_indptr=kv_indptr,
        kv_indices=kv_indices,
        qo_indptr=qo_indptr,
        **unused,
        **dict.fromkeys(windows),
    )


class ScaleSeqTriton(KnowsStreams, TritonAttnBackend):
    """SGLang's `triton`, counting rows."""

    needs_cpu_seq_lens = True  # tells how many slots of a buffer are in use

    def __init__(self, model_runner: Any, num_streams: int) -> None:
        super().__init__(seen_by_kernels(model_runner, num_streams))
        self.num_streams = num_streams

    def init_forward_metadata(self, forward_batch: ForwardBatch) -> None:
        """Describes an eager batch."""
        n = self.num_streams
        if forward_batch.forward_mode.is_decode_or_idle():
            room = self.cached_tokens(forward_batch, forward_batch.batch_size * self.max_context_len)
            slots = torch.empty(room, dtype=torch.int64, device=self.device)
            indptr = self.fill_cached(forward_batch, slots)
            new = torch.arange(forward_batch.batch_size + 1, device=self.device)
            self.forward_metadata = extension(indptr, slots, new, 1)
        else:
            super().init_forward_metadata(forward_batch)
        metadata = self.forward_metadata
        self.forward_metadata = replace(
            metadata,
            kv_indptr=expand_offsets(metadata.kv_indptr, n),
            kv_indices=expand_slots(metadata.kv_indices, n),
            qo_indptr=expand_offsets(metadata.qo_indptr, n),
            max_extend_len=tokens_to_positions(metadata.max_extend_len, n),
        )

    def fill_cached(self, forward_batch: ForwardBatch, slots: Tensor) -> Tensor:
        """Writes the slots of the tokens before the new one into `slots`; the offsets of the requests in it."""
        before = (forward_batch.seq_lens - 1).clamp_min(0)
        requests = forward_batch.req_pool_indices
        offsets: Tensor = self._fill_kv_indptr_and_indices(
            forward_batch.kv_loc_plan, forward_batch.batch_size, before, requests, slots
        )
        return offsets

    def cached_tokens(self, forward_batch: ForwardBatch, most: int) -> int:
        """Tokens before the new ones, all requests together, as far as the host knows them."""
        lengths = forward_batch.seq_lens_cpu
        return most if lengths is None else int((lengths - 1).clamp_min(0).sum())

    def init_cuda_graph_state(self, max_bs: int, max_num_tokens: int, *buffers: Any, **named: Any) -> None:
        """Makes the buffers of captured batches."""
        super().init_cuda_graph_state(max_bs, max_num_tokens, *buffers, **named)
        rows = tokens_to_positions(self.cuda_graph_kv_indices.numel(), self.num_streams)
        self.graph_rows = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self.graph_offsets = torch.zeros(max_bs + 1, dtype=torch.int32, device=self.device)
        self.graph_queries = expand_offsets(torch.arange(max_bs + 1, device=self.device), self.num_streams)

    def init_forward_metadata_out_graph(self, forward_batch: ForwardBatch, in_capture: bool = False) -> None:  # noqa: ARG002
        """Describes a batch that is captured or replayed, in the buffers that the graph reads."""
        only_decoding(forward_batch)
        n, size = self.num_streams, forward_batch.batch_size + 1
        offsets = self.fill_cached(forward_batch, self.cuda_graph_kv_indices)
        slots = self.cuda_graph_kv_indices[: self.cached_tokens(forward_batch, self.cuda_graph_kv_indices.numel())]
        self.graph_rows[: tokens_to_positions(slots.numel(), n)].copy_(expand_slots(slots, n))
        self.graph_offsets[:size].copy_(expand_offsets(offsets, n))
        new = tokens_to_positions(1, n)
        self.forward_metadata = extension(self.graph_offsets[:size], self.graph_rows, self.graph_queries[:size], new)

    def forward_decode(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layer: RadixAttention,
        forward_batch: ForwardBatch,
        save_kv_cache: bool = True,
        **options: Any,
    ) -> Tensor:
        """Rows of one new token per request, [P, H * E]."""
        q = q.reshape(-1, layer.tp_q_head_num * layer.qk_head_dim)
        return self.forward_extend(q, k, v, layer, forward_batch, save_kv_cache, **options)
