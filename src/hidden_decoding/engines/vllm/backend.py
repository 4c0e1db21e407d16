"""A supported attention backend of vLLM whose KV cache holds n rows for each token.

Contract: `expanded_backend(backend, n)` is the same class for the same arguments, counts tokens towards vLLM's block
manager and positions towards the backend's kernels, and refuses a backend that was not tried. n = 1 changes nothing.
Used by `layers`; the batch's description comes from `metadata`.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vllm.v1.attention.backend import MultipleOf, subclass_attention_backend_with_overrides

from hidden_decoding.engines.vllm.metadata import expanded_builder
from hidden_decoding.errors import ConfigError
from hidden_decoding.streams import (
    fewest_tokens_aligned,
    positions_to_tokens,
    tokens_per_position,
    tokens_to_positions,
)

if TYPE_CHECKING:
    import torch
    from vllm.v1.attention.backend import AttentionBackend, AttentionImpl
    from vllm.v1.kv_cache_interface import AttentionSpec

# CPU_ATTN is tested. FLASH_ATTN and TRITON_ATTN are written from their sources; no GPU run has confirmed them yet.
SUPPORTED_BACKENDS = ("CPU_ATTN", "FLASH_ATTN", "TRITON_ATTN")


@functools.cache
def expanded_backend(backend: type[AttentionBackend], num_streams: int) -> type[AttentionBackend]:
    """The backend for a model of n streams; raises `ConfigError` for one that was not tried."""
    if num_streams == 1:
        return backend
    if (name := backend.get_name()) not in SUPPORTED_BACKENDS:
        raise ConfigError(
            f"attention backend {name} is not supported with n = {num_streams} streams: its kernels were not tried "
            f"with several rows per token; give --attention-backend {' or '.join(SUPPORTED_BACKENDS[1:])}"
        )
    implementation = expanded_implementation(backend.get_impl_cls(), backend.forward_includes_kv_cache_update)
    builder = expanded_builder(backend.get_builder_cls(), num_streams)

    def customize_spec(spec: AttentionSpec) -> AttentionSpec:
        return replace(backend.customize_spec(spec), tokens_per_state=tokens_per_position(num_streams))

    def get_supported_kernel_block_sizes(kv_cache_spec: AttentionSpec | None = None) -> list[Any]:
        sizes = (block_in_tokens(s, num_streams) for s in backend.get_supported_kernel_block_sizes(kv_cache_spec))
        return [size for size in sizes if size is not None]

    def supports_block_size(block_size: int | None) -> bool:
        return backend.supports_block_size(block_size and tokens_to_positions(block_size, num_streams))

    overrides: dict[str, Any] = {
        "customize_spec": customize_spec,
        "get_supported_kernel_block_sizes": get_supported_kernel_block_sizes,
        "supports_block_size": supports_block_size,
        "get_builder_cls": lambda: builder,
        "get_impl_cls": lambda: implementation,
    }
    return subclass_attention_backend_with_overrides(
        name_prefix=f"HiddenDecoding{num_streams}Streams",
        attention_backend_cls=backend,
        overrides={
            **{name: staticmethod(function) for name, function in overrides.items()},
            "forward_includes_kv_cache_update": True,  # else vLLM would write by token, with its own slot mapping
        },
    )


def block_in_tokens(size: int | MultipleOf, num_streams: int) -> int | MultipleOf | None:
    """What a kernel's block size in rows means in tokens; None when its rows do not hold whole tokens."""
    if isinstance(size, MultipleOf):
        return MultipleOf(fewest_tokens_aligned(size.base, num_streams))
    tokens = positions_to_tokens(size, num_streams)
    return tokens if tokens_to_positions(tokens, num_streams) == size else None


def expanded_implementation(base: type[AttentionImpl], updates_cache_itself: bool) -> type[AttentionImpl]:
    """A subclass of a backend's implementation that writes K and V of all rows by the expanded slot mapping."""

    class ScaleSeqAttentionImpl(base):
        """Takes and returns rows of positions; `attn_metadata` comes from the expanded builder."""

        def forward(
            self,
            layer: torch.nn.Module,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            kv_cache: torch.Tensor,
            attn_metadata: Any,
            output: torch.Tensor,
            output_scale: torch.Tensor | None = None,
            output_block_scale: torch.Tensor | None = None,
        ) -> torch.Tensor:
            if attn_metadata is not None and not updates_cache_itself:
                self.do_kv_cache_update(layer, key, value, kv_cache, attn_metadata.slot_mapping)
            scales = (output_scale, output_block_scale)
            return super().forward(layer, query, key, value, kv_cache, attn_metadata, output, *scales)

        # Fused kernels would write K and V by vLLM's own slot mapping, one row per token.
        def fused_qk_norm_rope_kvcache_supported(self) -> bool:
            return False

        def fused_qk_norm_mrope_kvcache_supported(self) -> bool:
            return False

        def fused_rope_kvcache_supported(self) -> bool:
            return False

    return ScaleSeqAttentionImpl
