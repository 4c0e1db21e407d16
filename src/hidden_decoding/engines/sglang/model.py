"""The network as SGLang runs it: tokens in and out, n positions per token in between.

    ids_T -> x_TND (one table per stream) -> x_PD -> Qwen3's layers -> h_PD -> h_TD (last streams) -> logits_TV

Contract: every tensor SGLang hands in or takes out counts tokens. Tensor names are the published ones, and weights must
be exactly those of the configuration. Found by SGLang through `plugin`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from sglang.srt.layers.logits_processor import LogitsProcessor
from sglang.srt.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from sglang.srt.model_executor.forward_context import get_attn_backend
from sglang.srt.models.qwen3 import Qwen3ForCausalLM, Qwen3Model
from sglang.srt.runtime_context import get_parallel
from sglang.srt.utils import add_prefix
from torch import Tensor, nn

from hidden_decoding.engines.checked_weights import checked_weights
from hidden_decoding.engines.sglang.backend import KnowsStreams
from hidden_decoding.errors import CheckpointError
from hidden_decoding.streams import expand_positions, last_stream, merge_streams, tokens_to_positions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sglang.srt.model_executor.forward_batch_info import ForwardBatch

    Weights = Iterable[tuple[str, Tensor]]


class SglangScaleSeqModel(Qwen3Model):
    """The backbone. `embed_tokens` is stream 1; `scale_seq_embed_tokens_list` holds streams 2..n."""

    def __init__(self, config: Any, quant_config: Any = None, prefix: str = "") -> None:
        super().__init__(config, quant_config=quant_config, prefix=prefix)
        self.num_streams = config.num_streams
        self.scale_seq_embed_tokens_list = nn.ModuleList(
            VocabParallelEmbedding(
                config.vocab_size,
                config.hidden_size,
                quant_config=quant_config,
                prefix=add_prefix(f"scale_seq_embed_tokens_list.{index}", prefix),
            )
            for index in range(config.scale_seq_times)
        )

    def embed_streams(self, ids_T: Tensor) -> Tensor:
        """ids_T -> x_TND."""
        return torch.stack([table(ids_T) for table in (self.embed_tokens, *self.scale_seq_embed_tokens_list)], dim=-2)

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        forward_batch: ForwardBatch,
        input_embeds: Tensor | None = None,
        pp_proxy_tensors: Any = None,
    ) -> Tensor:
        """Ids and positions of tokens, [T] each -> normed last streams [T, D]."""
        n = self.num_streams
        if n == 1:
            return super().forward(input_ids, positions, forward_batch, input_embeds, pp_proxy_tensors)
        assert input_embeds is None, "embeddings are given per token, but each stream has its own"
        if not isinstance(get_attn_backend(), KnowsStreams):
            raise CheckpointError(f"attention runs in {type(get_attn_backend()).__name__}, which knows of no streams")
        x_PD = merge_streams(self.embed_streams(input_ids))
        with counting_positions(forward_batch, n):
            h_PD = super().forward(input_ids, expand_positions(positions, n), forward_batch, x_PD)
        return last_stream(h_PD[None], n)[0].contiguous()


@contextlib.contextmanager
def counting_positions(forward_batch: ForwardBatch, num_streams: int) -> Iterator[None]:
    """Inside, the batch's number of rows that are no padding counts positions: attention layers cut rows by it."""
    tokens = forward_batch.global_num_token_non_padded_cpu
    if tokens is not None:
        forward_batch.global_num_token_non_padded_cpu = tokens_to_positions(tokens, num_streams)
    try:
        yield
    finally:
        forward_batch.global_num_token_non_padded_cpu = tokens


class Qwen3ScaleSeqForCausalLM(Qwen3ForCausalLM):
    """What SGLang asks of a language model; the name is the architecture's in config.json."""

    def __init__(self, config: Any, quant_config: Any = None, prefix: str = "") -> None:
        nn.Module.__init__(self)  # Qwen3's own would make its backbone first
        self.pp_group = get_parallel().pp_group
        self.config = config
        self.quant_config = quant_config
        self.model = SglangScaleSeqModel(config, quant_config, add_prefix("model", prefix))
        self.lm_head = (
            self.model.embed_tokens
            if config.tie_word_embeddings
            else ParallelLMHead(
                config.vocab_size, config.hidden_size, quant_config=quant_config, prefix=add_prefix("lm_head", prefix)
            )
        )
        self.logits_processor = LogitsProcessor(config)
        self.capture_aux_hidden_states = False

    def load_weights(self, weights: Weights) -> None:
        """Loads the checkpoint; raises `CheckpointError` unless it holds exactly the tensors of the configuration."""
        super().load_weights(checked_weights(weights, self.config, quantised=self.quant_config is not None))


EntryClass = Qwen3ScaleSeqForCausalLM
