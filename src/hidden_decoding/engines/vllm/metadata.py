"""The batch as attention kernels must see it: a copy of vLLM's description of it, in positions.

Contract: vLLM's own description is never written to (other users of it count tokens). Tensors that graphs may have
captured are written into buffers that live as long as the builder. `expanded_builder` is used by `backend`.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vllm.v1.attention.backend import AttentionCGSupport

from hidden_decoding.streams import expand_offsets, expand_slots, positions_to_tokens, tokens_to_positions

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig
    from vllm.v1.attention.backend import AttentionMetadataBuilder, CommonAttentionMetadata
    from vllm.v1.kv_cache_interface import AttentionSpec

COUNTS = ("num_actual_tokens", "max_query_len", "max_seq_len")
OFFSETS = ("query_start_loc", "query_start_loc_cpu", "seq_lens", "seq_lens_cpu_upper_bound")
# Derived from the above, in tokens: kernels' builders recompute what they need.
DROPPED = ("positions", "_num_computed_tokens_cache", "_token_to_req_indices_cache")
# The same in tokens and positions.
KEPT = ("num_reqs", "block_table_tensor", "causal", "is_prefilling", "req_idx")
# Read only by what is refused (context parallelism) or what this model is not (R-SWA, Mamba); newer model runners fill
# them in all the same.
UNREAD = (
    "dcp_local_seq_lens",
    "dcp_local_seq_lens_cpu_upper_bound",
    "rswa_prefix_lens",
    "replayssm_decode_base_cpu",
)
ON_DEVICE = ("query_start_loc", "seq_lens", "slot_mapping")


def expand_metadata(common: CommonAttentionMetadata, num_streams: int) -> CommonAttentionMetadata:
    """Tokens -> positions: lengths and offsets times n, each KV slot -> its n rows; block tables stay."""
    changes: dict[str, Any] = {name: tokens_to_positions(getattr(common, name), num_streams) for name in COUNTS}
    for name in OFFSETS:
        value = getattr(common, name)
        changes[name] = None if value is None else expand_offsets(value, num_streams)
    changes["slot_mapping"] = expand_slots(common.slot_mapping, num_streams)
    return replace(common, **changes, **dict.fromkeys(DROPPED))


def check_fields(common: CommonAttentionMetadata) -> None:
    """Refuses a description with something in it that we do not know how to expand."""
    known = {*COUNTS, *OFFSETS, *DROPPED, *KEPT, *UNREAD, "slot_mapping"}
    others = [field.name for field in dataclasses.fields(common) if field.name not in known]
    if used := [name for name in others if getattr(common, name) is not None]:
        raise NotImplementedError(
            f"vLLM describes the batch also by {', '.join(used)}, and whether that counts tokens or positions is not "
            "known here; switch the feature off that sets it, or use a tested version of vLLM (0.32)"
        )


def config_in_positions(vllm_config: VllmConfig, num_streams: int) -> VllmConfig:
    """A shallow copy whose limits on sequence and batch count positions: builders size their buffers by them."""
    expanded = copy.copy(vllm_config)
    expanded.model_config = copy.copy(vllm_config.model_config)
    expanded.scheduler_config = copy.copy(vllm_config.scheduler_config)
    for config, limit in (
        (expanded.model_config, "max_model_len"),
        (expanded.scheduler_config, "max_num_batched_tokens"),
    ):
        setattr(config, limit, tokens_to_positions(getattr(config, limit), num_streams))
    return expanded


class StableBuffers:
    """Copies of tensors at addresses that never change, as captured graphs need them."""

    def __init__(self, capacity: dict[str, int]) -> None:
        self.capacity = capacity
        self.made: dict[str, torch.Tensor] = {}

    def put(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """The value in the buffer of that name."""
        if name not in self.made:
            self.made[name] = value.new_empty(max(self.capacity[name], value.numel()))
        buffer = self.made[name]
        assert value.numel() <= buffer.numel(), f"{name} has {value.numel()} entries, room is for {buffer.numel()}"
        return buffer[: value.numel()].copy_(value)


def expanded_builder(base: type[AttentionMetadataBuilder], num_streams: int) -> type[AttentionMetadataBuilder]:
    """A subclass of a backend's metadata builder that describes batches in positions."""

    class ScaleSeqMetadataBuilder(base):
        """Counts tokens outside, positions inside."""

        # That shortcut would put a slot mapping in tokens into metadata in positions.
        supports_update_block_table = False

        def __init__(
            self, kv_cache_spec: AttentionSpec, layer_names: list[str], vllm_config: VllmConfig, device: torch.device
        ) -> None:
            rows = tokens_to_positions(kv_cache_spec.block_size, num_streams)
            in_positions = config_in_positions(vllm_config, num_streams)
            spec = replace(kv_cache_spec, block_size=rows, tokens_per_state=1)
            super().__init__(spec, layer_names, in_positions, device)
            self.supports_draft_decode_metadata_update = False
            if (largest := getattr(self, "max_cudagraph_size", None)) is not None:
                self.max_cudagraph_size = tokens_to_positions(largest, num_streams)  # compared with positions
            requests = vllm_config.scheduler_config.max_num_seqs
            positions = in_positions.scheduler_config.max_num_batched_tokens
            sizes = {"query_start_loc": requests + 1, "seq_lens": requests, "slot_mapping": positions}
            self._stable = StableBuffers(sizes)

        @classmethod
        def get_cudagraph_support(cls, vllm_config: VllmConfig, kv_cache_spec: AttentionSpec) -> AttentionCGSupport:
            """Graphs for queries of one row only never fit a token of several."""
            support = super().get_cudagraph_support(vllm_config, kv_cache_spec)
            one_row_only = support == AttentionCGSupport.UNIFORM_SINGLE_TOKEN_DECODE
            return AttentionCGSupport.NEVER if one_row_only else support

        @classmethod
        def get_varlen_cudagraph_max_query_len(
            cls, vllm_config: VllmConfig, kv_cache_spec: AttentionSpec
        ) -> int | None:
            """In tokens, where the kernels' own limit counts rows."""
            rows = super().get_varlen_cudagraph_max_query_len(vllm_config, kv_cache_spec)
            return (positions_to_tokens(rows, num_streams) or None) if rows else None

        def build(
            self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata, fast_build: bool = False
        ) -> Any:
            if not self._stable.made:
                check_fields(common_attn_metadata)
            expanded = expand_metadata(common_attn_metadata, num_streams)
            stable = {name: self._stable.put(name, getattr(expanded, name)) for name in ON_DEVICE}
            prefix = tokens_to_positions(common_prefix_len, num_streams)
            return super().build(prefix, replace(expanded, **stable), fast_build)

        def build_for_cudagraph_capture(self, common_attn_metadata: CommonAttentionMetadata) -> Any:
            metadata = super().build_for_cudagraph_capture(common_attn_metadata)
            # Triton's builder captures with sequences of one row, which is less than one query here.
            if base.__name__ == "TritonAttentionMetadataBuilder":
                metadata.seq_lens.fill_(tokens_to_positions(1, num_streams))
            return metadata

    return ScaleSeqMetadataBuilder
