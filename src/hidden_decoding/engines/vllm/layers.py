"""Attention and decoder layer on rows of positions, made of vLLM's parallel and quantisable parts.

Contract: [P, D] in, [P, D] out; the last layer goes on with the last stream of each token after attending, [T, D]. The
same arithmetic as `modeling.model`. Used by `model`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import QKVParallelLinear, RowParallelLinear
from vllm.model_executor.layers.rotary_embedding import get_rope
from vllm.model_executor.models.qwen2 import Qwen2MLP
from vllm.model_executor.models.utils import extract_layer_index
from vllm.v1.attention.selector import get_attn_backend

from hidden_decoding.engines.vllm.backend import expanded_backend
from hidden_decoding.engines.vllm.limits import linear_factor
from hidden_decoding.streams import last_stream, tokens_to_positions

if TYPE_CHECKING:
    from vllm.config import VllmConfig


def rope_rows(vllm_config: VllmConfig) -> int:
    """Rows to ask vLLM's RoPE table for, so that it holds every position.

    A linear factor multiplies the number of rows in vLLM; positions need no more rows for it.
    """
    model_config = vllm_config.model_config
    config = model_config.hf_text_config
    longest = tokens_to_positions(model_config.max_model_len, config.num_streams)
    return math.ceil(max(config.max_position_embeddings, longest) / linear_factor(config))


def last_rows(h_PD: Tensor, num_streams: int) -> Tensor:
    """[P, D] -> [T, D]: the predicting row of each token."""
    return h_PD if num_streams == 1 else last_stream(h_PD[None], num_streams)[0].contiguous()


class VllmScaleSeqAttention(nn.Module):
    """Qwen3's attention; its KV cache holds n rows per token."""

    def __init__(self, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        config = vllm_config.model_config.hf_text_config
        ranks = get_tensor_model_parallel_world_size()
        kv_heads = config.num_key_value_heads
        if config.num_attention_heads % ranks or max(kv_heads, ranks) % min(kv_heads, ranks):
            raise ValueError(
                f"--tensor-parallel-size {ranks} does not divide {config.num_attention_heads} query heads and "
                f"{kv_heads} key/value heads"
            )
        self.head_dim = config.head_dim
        self.heads = config.num_attention_heads // ranks
        self.kv_heads = max(1, kv_heads // ranks)
        parts: dict[str, Any] = {"bias": config.attention_bias, "quant_config": vllm_config.quant_config}
        self.qkv_proj = QKVParallelLinear(
            config.hidden_size,
            self.head_dim,
            config.num_attention_heads,
            config.num_key_value_heads,
            prefix=f"{prefix}.qkv_proj",
            **parts,
        )
        self.o_proj = RowParallelLinear(
            config.num_attention_heads * self.head_dim, config.hidden_size, prefix=f"{prefix}.o_proj", **parts
        )
        self.q_norm = RMSNorm(self.head_dim, eps=config.rms_norm_eps)
        self.k_norm = RMSNorm(self.head_dim, eps=config.rms_norm_eps)
        self.rotary_emb = get_rope(
            self.head_dim, max_position=rope_rows(vllm_config), rope_parameters=config.rope_parameters
        )
        cache_config = vllm_config.cache_config
        backend = get_attn_backend(self.head_dim, torch.get_default_dtype(), cache_config.cache_dtype)
        self.attn = Attention(
            self.heads,
            self.head_dim,
            self.head_dim**-0.5,
            num_kv_heads=self.kv_heads,
            cache_config=cache_config,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.attn",
            attn_backend=expanded_backend(backend, config.num_streams),
        )

    def forward(self, positions_P: Tensor, h_PD: Tensor, last_stream_of: int = 1) -> Tensor:
        """[P, D] -> [P, D], or [T, D] when `last_stream_of` is the number of streams."""
        qkv, _ = self.qkv_proj(h_PD)
        sizes = [heads * self.head_dim for heads in (self.heads, self.kv_heads, self.kv_heads)]
        query, key, value = qkv.split(sizes, dim=-1)
        query = self.q_norm(query.unflatten(-1, (self.heads, self.head_dim))).flatten(-2)
        key = self.k_norm(key.unflatten(-1, (self.kv_heads, self.head_dim))).flatten(-2)
        query, key = self.rotary_emb(positions_P, query, key)
        attended, _ = self.o_proj(last_rows(self.attn(query, key, value), last_stream_of))
        return attended


class VllmScaleSeqDecoderLayer(nn.Module):
    """Qwen3's decoder layer; the last one continues with the last stream of each token only."""

    def __init__(self, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        config = vllm_config.model_config.hf_text_config
        self.self_attn = VllmScaleSeqAttention(vllm_config, f"{prefix}.self_attn")
        self.mlp = Qwen2MLP(
            config.hidden_size,
            config.intermediate_size,
            config.hidden_act,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.mlp",
        )
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        is_last = extract_layer_index(prefix) == config.num_hidden_layers - 1
        self.keeps_last_stream_of = config.num_streams if is_last else 1

    def forward(self, positions_P: Tensor, h_PD: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """(output, residual) of the layer, both [P, D], or [T, D] in the last layer."""
        if residual is None:
            residual, h_PD = h_PD, self.input_layernorm(h_PD)
        else:
            h_PD, residual = self.input_layernorm(h_PD, residual)
        attended = self.self_attn(positions_P, h_PD, self.keeps_last_stream_of)
        kept = last_rows(residual, self.keeps_last_stream_of)
        h, residual = self.post_attention_layernorm(attended, kept)
        return self.mlp(h), residual
