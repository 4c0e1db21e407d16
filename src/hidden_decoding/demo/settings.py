"""Sizes of the demonstration: the default, a quick one for CI, and a full one. Loads only the standard library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """One setting of the demonstration; all counts in tokens. `streams` are the n that are compared."""

    name: str
    layers: int
    width: int
    heads: int
    feed_forward: int
    vocabulary: int
    tokens_per_sequence: int
    sequences_per_step: int
    base_steps: int
    continued_steps: int
    evaluations: int
    heldout_tokens: int
    text_bytes: int | None
    completion_tokens: int
    base_learning_rate: float = 1.5e-3
    learning_rate: float = 1.5e-3
    initializer_range: float = 0.02
    warmup_steps: int = 20
    noise: float = 0.1
    positions: str = "linear"
    seed: int = 0
    streams: tuple[int, ...] = (1, 2, 4)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimiser step."""
        return self.tokens_per_sequence * self.sequences_per_step

    def base_config(self) -> dict[str, Any]:
        """Fields of the base's Qwen3 configuration."""
        return {
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "intermediate_size": self.feed_forward,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "head_dim": self.width // self.heads,
            "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "initializer_range": self.initializer_range,
            "tie_word_embeddings": False,
            "eos_token_id": 0,
            "dtype": "float32",
        }


DEFAULT = DemoSettings(
    name="default",
    layers=4,
    width=128,
    heads=4,
    feed_forward=384,
    vocabulary=1024,
    tokens_per_sequence=128,
    sequences_per_step=8,
    base_steps=420,
    continued_steps=128,
    evaluations=4,
    heldout_tokens=20_000,
    text_bytes=5_000_000,
    completion_tokens=64,
    base_learning_rate=4e-3,
    initializer_range=0.05,
)
QUICK = DemoSettings(
    name="quick",
    layers=2,
    width=64,
    heads=2,
    feed_forward=192,
    vocabulary=512,
    tokens_per_sequence=64,
    sequences_per_step=8,
    base_steps=200,
    continued_steps=60,
    evaluations=3,
    heldout_tokens=4_000,
    text_bytes=1_500_000,
    completion_tokens=24,
    base_learning_rate=4e-3,
    initializer_range=0.05,
)
# The setting in which more streams came out ahead on book text; about half an hour on two cores.
FULL = DemoSettings(
    name="full",
    layers=6,
    width=160,
    heads=5,
    feed_forward=480,
    vocabulary=2048,
    tokens_per_sequence=64,
    sequences_per_step=24,
    base_steps=800,
    continued_steps=800,
    evaluations=4,
    heldout_tokens=60_000,
    text_bytes=None,
    completion_tokens=64,
    warmup_steps=0,
)
