"""`fa3` for slots that own n rows: FlashAttention's paged kernel on pages of n times as many rows.

    page of tokens  = page of n rows per token: the page table is SGLang's own, block numbers stay as they are
    lengths, offsets: n times SGLang's; a decoded token is a query of n rows under the causal mask

Contract: eager batches get lengths of their own (SGLang's may be shared), captured ones are scaled inside the buffers
whose addresses the graph holds. **No GPU has run this**: a CPU checks the arguments of the kernel (tests/sglang).
Used by `backend`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sglang.srt.layers.attention.flashattention_backend import FlashAttentionBackend
from sglang.srt.mem_cache.layout.paged_view import paged_kv_view

from hidden_decoding.engines.sglang.backend import KnowsStreams, only_decoding
from hidden_decoding.engines.sglang.rows import seen_by_kernels
from hidden_decoding.streams import expand_offsets, tokens_to_positions

if TYPE_CHECKING:
    from sglang.srt.layers.attention.flashattention_backend import FlashAttentionMetadata
    from sglang.srt.layers.radix_attention import RadixAttention
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch
    from torch import Tensor

COUNTS = ("max_seq_len_q", "max_seq_len_k")
OFFSETS = ("cache_seqlens_int32", "cu_seqlens_q", "cu_seqlens_k")
REFILLED = ("cache_seqlens_int32", "cu_seqlens_k")  # by SGLang before each replay, in tokens


def in_positions(metadata: FlashAttentionMetadata, num_streams: int) -> FlashAttentionMetadata:
    """A description in tokens -> one in positions, its tensors new."""
    changes: dict[str, Any] = {name: tokens_to_positions(getattr(metadata, name), num_streams) for name in COUNTS}
    return replace(
        metadata, **changes, **{name: expand_offsets(getattr(metadata, name), num_streams) for name in OFFSETS}
    )


class ScaleSeqFlashAttention(KnowsStreams, FlashAttentionBackend):
    """SGLang's `fa3`, counting rows."""

    forward_metadata: FlashAttentionMetadata

    def __init__(self, model_runner: Any, num_streams: int) -> None:
        super().__init__(seen_by_kernels(model_runner, num_streams))
        self.num_streams = num_streams
        # It is worked out from one row per query, and before the lengths are scaled.
        self._disable_scheduler_metadata_precompute = True

    def init_forward_metadata(self, forward_batch: ForwardBatch) -> None:
        """Describes an eager batch."""
        super().init_forward_metadata(forward_batch)
        self.forward_metadata = in_positions(self.forward_metadata, self.num_streams)

    def init_cuda_graph_state(self, max_bs: int, max_num_tokens: int) -> None:
        """Makes the buffers of captured batches; SGLang fills the queries' offsets only here."""
        super().init_cuda_graph_state(max_bs, max_num_tokens)
        state = self.decode_cuda_graph_metadata
        state["cu_seqlens_q"] = expand_offsets(state["cu_seqlens_q"], self.num_streams)

    def init_forward_metadata_out_graph(self, forward_batch: ForwardBatch, in_capture: bool = False) -> None:
        """Describes a batch that is captured or replayed, in the buffers that the graph reads."""
        only_decoding(forward_batch)
        super().init_forward_metadata_out_graph(forward_batch, in_capture)
        metadata = self.forward_metadata
        for name in REFILLED:
            lengths = getattr(metadata, name)
            lengths.copy_(expand_offsets(lengths, self.num_streams))
        metadata.max_seq_len_q = tokens_to_positions(1, self.num_streams)  # the kernel's launch has it as a constant
        metadata.max_seq_len_k = tokens_to_positions(metadata.max_seq_len_k, self.num_streams)

    def get_paged_mha_kv_cache(self, layer: RadixAttention, *, head_group_num: int = 1) -> tuple[Tensor, Tensor]:
        """K and V as the kernel takes them, [pages, rows of a page, K, E]."""
        assert head_group_num == 1, f"{head_group_num} groups of heads per page are SGLang's for other backends"
        rows = tokens_to_positions(self.page_size, self.num_streams)
        key, value = self.token_to_kv_pool.get_kv_buffer(layer.layer_id)
        return (
            paged_kv_view(key, rows, layer.tp_k_head_num, layer.head_dim),
            paged_kv_view(value, rows, layer.tp_v_head_num, layer.v_head_dim),
        )
