"""The network as vLLM runs it: tokens in and out, n positions per token in between.

    ids_T -> x_TND (one table per stream) -> x_PD -> decoder layers -> h_TD (last streams) -> logits_TV

Contract: every tensor vLLM hands in or takes out counts tokens; the expansion is inside the compiled forward. Tensor
names are the published ones. Weights must be exactly those of the configuration. Found by vLLM through `plugin`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from vllm.compilation.decorators import support_torch_compile
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.models.qwen2 import Qwen2Model
from vllm.model_executor.models.utils import AutoWeightsLoader, maybe_prefix

from hidden_decoding.engines.checked_weights import checked_weights
from hidden_decoding.engines.vllm.layers import VllmScaleSeqDecoderLayer
from hidden_decoding.streams import expand_positions, merge_streams

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllm.config import VllmConfig
    from vllm.sequence import IntermediateTensors

    Weights = Iterable[tuple[str, Tensor]]


@support_torch_compile(
    dynamic_arg_dims={"input_ids": 0, "positions": -1, "intermediate_tensors": 0, "inputs_embeds": 0}
)
class VllmQwen3ScaleSeqModel(nn.Module):
    """The backbone. `embed_tokens` is stream 1; `scale_seq_embed_tokens_list` holds streams 2..n."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_text_config
        self.num_streams = config.num_streams

        def table(name: str) -> VocabParallelEmbedding:
            return VocabParallelEmbedding(
                config.vocab_size,
                config.hidden_size,
                quant_config=vllm_config.quant_config,
                prefix=f"{prefix}.{name}",
            )

        self.embed_tokens = table("embed_tokens")
        self.scale_seq_embed_tokens_list = nn.ModuleList(
            table(f"scale_seq_embed_tokens_list.{index}") for index in range(config.scale_seq_times)
        )
        self.layers = nn.ModuleList(
            VllmScaleSeqDecoderLayer(vllm_config, f"{prefix}.layers.{index}")
            for index in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def embed_streams(self, ids_T: Tensor) -> Tensor:
        """ids_T -> x_TND."""
        return torch.stack([table(ids_T) for table in (self.embed_tokens, *self.scale_seq_embed_tokens_list)], dim=-2)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Ids and positions of tokens, [T] each -> normed last streams [T, D]."""
        assert intermediate_tensors is None, "pipeline stages are refused at start-up"
        if inputs_embeds is None:
            assert input_ids is not None, "neither ids nor embeddings were given"
            h_PD = merge_streams(self.embed_streams(input_ids))
        else:
            assert self.num_streams == 1, "embeddings are given per token, but each stream has its own"
            h_PD = inputs_embeds
        positions_P, residual = expand_positions(positions, self.num_streams), None
        for layer in self.layers:
            h_PD, residual = layer(positions_P, h_PD, residual)
        h_TD, _ = self.norm(h_PD, residual)
        return h_TD

    def load_weights(self, weights: Weights) -> set[str]:
        """Loads Qwen3's names, stacking q, k, v and gate, up as vLLM's layers have them."""
        loaded: set[str] = AutoWeightsLoader(self).load_weights(weights, mapper=Qwen2Model.hf_to_vllm_mapper)
        return loaded


class VllmQwen3ScaleSeqForCausalLM(nn.Module):
    """What vLLM asks of a language model: hidden states, logits, weights."""

    hf_to_vllm_mapper = Qwen2Model.hf_to_vllm_mapper
    packed_modules_mapping = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        self.config = vllm_config.model_config.hf_text_config
        self.quant_config = vllm_config.quant_config
        self.model = VllmQwen3ScaleSeqModel(vllm_config=vllm_config, prefix=maybe_prefix(prefix, "model"))
        self.lm_head = ParallelLMHead(
            self.config.vocab_size,
            self.config.hidden_size,
            quant_config=self.quant_config,
            prefix=maybe_prefix(prefix, "lm_head"),
        )
        if self.config.tie_word_embeddings:
            self.lm_head = self.lm_head.tie_weights(self.model.embed_tokens)
        self.logits_processor = LogitsProcessor(self.config.vocab_size)

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """ids_T -> x_PD."""
        return merge_streams(self.model.embed_streams(input_ids))

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Ids and positions of tokens -> what `compute_logits` takes, [T, D]."""
        hidden: Tensor = self.model(input_ids, positions, intermediate_tensors, inputs_embeds)
        return hidden

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """[T, D] -> logits_TV."""
        logits: Tensor | None = self.logits_processor(self.lm_head, hidden_states)
        return logits

    def load_weights(self, weights: Weights) -> set[str]:
        """Loads the checkpoint; raises `CheckpointError` unless it holds exactly the tensors of the configuration."""
        checked = checked_weights(weights, self.config, quantised=self.quant_config is not None)
        loaded: set[str] = AutoWeightsLoader(self).load_weights(checked)
        return loaded
