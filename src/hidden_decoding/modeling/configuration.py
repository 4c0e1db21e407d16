"""Configuration of a hidden-decoding Qwen3: Qwen3's own plus the number of streams.

Contract: reads and writes the published `config.json` (`model_type: qwen3_scale_seq`, `scale_seq_times` = n - 1), in
both spellings (`rope_theta` or `rope_parameters`, `torch_dtype` or `dtype`). `max_position_embeddings` always counts
positions. The file `configuration_qwen3_scale_seq.py` beside exported checkpoints is generated from this one.
"""

from __future__ import annotations

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config

from hidden_decoding.streams import context_tokens, streams_of


@strict
class Qwen3ScaleSeqConfig(Qwen3Config):
    """`scale_seq_times` is the number of *extra* embedding tables, n - 1; 0 is plain Qwen3."""

    model_type = "qwen3_scale_seq"
    base_model_pp_plan: ClassVar[dict[str, Any]] = {
        "scale_seq_embed_tokens_list": (["input_ids"], ["inputs_embeds"]),
        **Qwen3Config.base_model_pp_plan,
    }

    scale_seq_times: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        if type(self.scale_seq_times) is not int or self.scale_seq_times < 0:
            raise ValueError(
                f"scale_seq_times is {self.scale_seq_times!r}, but it counts the extra embedding tables "
                "(n - 1) and must be a whole number from 0"
            )
        super().__post_init__(**kwargs)

    @property
    def num_streams(self) -> int:
        """n: positions per token."""
        return streams_of(self.scale_seq_times)

    @property
    def max_tokens(self) -> int:
        """Longest sequence in tokens that `max_position_embeddings` positions hold."""
        return context_tokens(self.max_position_embeddings, self.num_streams)
