"""Floating-point operations of the model: what training throughput is measured against, and what a plan multiplies.

Contract: arithmetic on a configuration; loads no torch. Counts the floor, matrix products only: decoder layers on every
position, the head once per token, causal attention over the positions of a packed row (half of the square). A multiply
and an add are two operations. The last layer's output projection and MLP run on last streams only, as in the model.
The backward pass costs twice the forward (Kaplan et al., arXiv 2001.08361); recomputed activations do not count, as
usual for model FLOPs utilisation (PaLM, arXiv 2204.02311, appendix B).

    >>> training_flops_per_token(config, tokens_per_sequence=4096)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hidden_decoding.streams import tokens_to_positions

BACKWARD_AND_FORWARD = 3
THROUGH_AND_FORWARD = 2


@dataclass(frozen=True, kw_only=True)
class ForwardFlops:
    """Operations of one forward pass, per token: in the matrices of the layers, in attention, in the head."""

    layers: float
    attention: float
    head: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.layers + self.attention + self.head

    def as_dict(self) -> dict[str, float]:
        """Plain data, with the total."""
        return {**asdict(self), "total": self.total}


def forward_flops_per_token(config: Any, tokens_per_sequence: int) -> ForwardFlops:
    """Operations per token of a forward pass over rows of `tokens_per_sequence` tokens, each one document.

    `config` is a `Qwen3ScaleSeqConfig`. Rows of several documents attend to less; the figure is then a little high.
    """
    n, width = config.num_streams, config.hidden_size
    heads, kv_heads, head = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    query_key_value = 2 * width * head * (heads + 2 * kv_heads)
    after_attention = 2 * width * head * heads + 2 * 3 * width * config.intermediate_size
    whole_layers = config.num_hidden_layers - 1
    positions = tokens_to_positions(1, n)
    layers = positions * (whole_layers * (query_key_value + after_attention) + query_key_value) + after_attention
    seen = (tokens_to_positions(tokens_per_sequence, n) + 1) / 2  # positions a row sees, on average, itself included
    attention = positions * config.num_hidden_layers * 2 * 2 * heads * head * seen
    return ForwardFlops(layers=layers, attention=attention, head=2.0 * width * config.vocab_size)


def training_flops(forward: ForwardFlops, *, tokens: float, learned_tokens: float, adapters: bool = False) -> float:
    """Operations of forward and backward pass over `tokens` tokens, the head on the `learned_tokens` with a loss.

    With `adapters` the matrices are frozen: the backward pass goes through them but not into them, and costs as much as
    the forward; attention has no weights and costs the same. The adapters' own operations are left out.
    """
    matrices = forward.layers * tokens + forward.head * learned_tokens
    times = THROUGH_AND_FORWARD if adapters else BACKWARD_AND_FORWARD
    return times * matrices + BACKWARD_AND_FORWARD * forward.attention * tokens


def training_flops_per_token(config: Any, tokens_per_sequence: int) -> float:
    """Operations per token of forward and backward pass, where every token carries loss."""
    return training_flops(forward_flops_per_token(config, tokens_per_sequence), tokens=1, learned_tokens=1)
