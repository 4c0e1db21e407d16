"""The public Qwen3 bases a run is planned for without a network: their configurations, as published.

Contract: `known_config("Qwen/Qwen3-8B-Base")` gives the fields of its config.json that decide sizes and positions, or
None. Only planning reads this; training always reads the checkpoint itself.
"""

from __future__ import annotations

from typing import Any

SHARED = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000,
    "vocab_size": 151936,
    "eos_token_id": 151643,
    "dtype": "bfloat16",
}
SIZES = {
    "0.6B": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "1.7B": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    "8B": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
}
TIED = ("0.6B", "1.7B")


def known_config(model: str) -> dict[str, Any] | None:
    """Fields of a base's config.json, or None when its name is not known here."""
    for size, own in SIZES.items():
        if model in (f"Qwen/Qwen3-{size}-Base", f"Qwen/Qwen3-{size}"):
            return {**SHARED, **own, "tie_word_embeddings": size in TIED}
    return None
