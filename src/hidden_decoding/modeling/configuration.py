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

STREAM_ATTENTION = ("full", "intra", "local")


@strict
class Qwen3ScaleSeqConfig(Qwen3Config):
    """`scale_seq_times` is the number of *extra* embedding tables, n - 1; 0 is plain Qwen3.

    `stream_attention` (Stream-Factorised Attention, arXiv 2607.08186v1) names what each layer attends to: `full`,
    `intra` (earlier rows of the same stream) or `local` (the last `stream_window` positions). Absent: full everywhere.
    """

    model_type = "qwen3_scale_seq"
    base_model_pp_plan: ClassVar[dict[str, Any]] = {
        "scale_seq_embed_tokens_list": (["input_ids"], ["inputs_embeds"]),
        **Qwen3Config.base_model_pp_plan,
    }

    scale_seq_times: int = 0
    stream_attention: list[str] | None = None
    stream_window: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if type(self.scale_seq_times) is not int or self.scale_seq_times < 0:
            raise ValueError(
                f"scale_seq_times is {self.scale_seq_times!r}, but it counts the extra embedding tables "
                "(n - 1) and must be a whole number from 0"
            )
        super().__post_init__(**kwargs)
        self._check_stream_attention()

    def _check_stream_attention(self) -> None:
        kinds = self.stream_attention
        if kinds is None:
            return
        unknown = sorted(set(kinds) - set(STREAM_ATTENTION))
        if unknown or len(kinds) != self.num_hidden_layers:
            raise ValueError(
                f"stream_attention is {kinds!r}, but must hold one of {', '.join(STREAM_ATTENTION)} for each of the "
                f"{self.num_hidden_layers} layers"
            )
        if "local" in kinds and (self.stream_window is None or self.stream_window < 1):
            raise ValueError(
                f"stream_window is {self.stream_window!r}, but layers of kind local need it: positions a query sees "
                "back, its own included, from 1"
            )

    @property
    def num_streams(self) -> int:
        """n: positions per token."""
        return streams_of(self.scale_seq_times)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; without the fields of stream-factorised attention where there is none, as published."""
        fields: dict[str, Any] = super().to_dict()
        for name in ("stream_attention", "stream_window"):
            if fields.get(name) is None:
                fields.pop(name, None)
        return fields

    @property
    def is_stream_factorised(self) -> bool:
        """Whether any layer attends to less than all earlier positions (stream-factorised attention)."""
        return any(kind != "full" for kind in self.stream_attention or [])

    def stream_attention_of(self, layer_idx: int) -> str:
        """What a layer attends to: full, intra or local."""
        return "full" if self.stream_attention is None else self.stream_attention[layer_idx]

    @property
    def max_tokens(self) -> int:
        """Longest sequence in tokens that `max_position_embeddings` positions hold."""
        return context_tokens(self.max_position_embeddings, self.num_streams)
