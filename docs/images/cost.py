"""Draws `cost.svg`: what n streams cost at 8B, from the package's own counting on the published shape.

Contract: `costs()` is also what the table of docs/method.md is compared with by a test.

$ python docs/images/cost.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "cost"  # the same file from the same code
import matplotlib.pyplot as plt

from hidden_decoding.modeling.checkpoint import load_config
from hidden_decoding.modeling.flops import forward_flops_per_token
from hidden_decoding.modeling.inspection import Inspection, inspect_checkpoint

STREAMS = (1, 2, 4, 8)
CONTEXT_TOKENS = 4096
# Qwen3-8B with n tables, as published.
SHAPE_8B = {
    "architectures": ["Qwen3ScaleSeqForCausalLM"],
    "model_type": "qwen3_scale_seq",
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
    "eos_token_id": 151643,
}
PANELS = (
    ("parameters, billions", "#9ecae1"),
    ("weights read per decode step, GB", "#a1d99b"),
    ("KV cache per token, KiB", "#fdd0a2"),
    (f"operations per token at {CONTEXT_TOKENS:,} tokens, GFLOP", "#dadaeb"),
)


def published(num_streams: int) -> tuple[Inspection, float]:
    """What `inspect` says of the 8B shape with n streams, and operations per token of a forward pass."""
    with tempfile.TemporaryDirectory() as place:
        config = {**SHAPE_8B, "scale_seq_times": num_streams - 1}
        (Path(place) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return inspect_checkpoint(place), forward_flops_per_token(load_config(place), CONTEXT_TOKENS).total


def costs() -> dict[int, tuple[float, float, float, float]]:
    """n -> the four figures of the panels. A step looks a few rows of the tables up: they are not read whole."""
    found = {}
    for num_streams in STREAMS:
        seen, operations = published(num_streams)
        read = 2 * (seen.parameters.backbone + seen.parameters.lm_head)  # bfloat16
        found[num_streams] = (
            seen.parameters.total / 1e9,
            read / 1e9,
            seen.kv_bytes_per_token / 2**10,
            operations / 1e9,
        )
    return found


def main() -> None:
    figures = costs()
    figure, axes = plt.subplots(1, len(PANELS), figsize=(11, 2.6))
    for index, (title, colour) in enumerate(PANELS):
        values = [figures[n][index] for n in STREAMS]
        bars = axes[index].bar([f"n = {n}" for n in STREAMS], values, color=colour, edgecolor="#333333", linewidth=0.6)
        axes[index].bar_label(
            bars, [f"{value:,.0f}" if value >= 100 else f"{value:.1f}" for value in values], fontsize=8
        )
        axes[index].set_title(title, fontsize=8.5)
        axes[index].set_ylim(0, max(values) * 1.18)
        axes[index].set_yticks([])
        axes[index].tick_params(labelsize=8)
        axes[index].spines[["top", "right", "left"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(Path(__file__).with_suffix(".svg"), bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main()
