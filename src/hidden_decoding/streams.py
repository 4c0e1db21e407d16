"""Tokens and positions: the legend of shapes, and all arithmetic between the two.

A *token* is logical: what a tokenizer makes, what a user counts. A *position* is expanded: one row the Transformer
reads. With n streams a token owns n consecutive positions. Every line that turns one into the other is in this module;
nothing else multiplies or divides by n. Pure functions, no state; used by every other module.

Legend of shapes (suffixes of tensor names everywhere in this package):

    B batch   T tokens (logical)   N streams   P positions = N * T   D width
    H query heads   K key/value heads   E head dim   F feed-forward width   V vocabulary

    ids_BT -> x_BTND -> x_BPD -> h_BPD -> h_BTD -> logits_BTV

Layout of positions: token t, stream k (0-based) sits at position t * n + k. Only stream n - 1, the last one, predicts.

    >>> tokens_to_positions(10, num_streams=4)
    40
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


# --------------------------------------------------------------------------------------------------- whole numbers


def streams_of(scale_seq_times: int) -> int:
    """Number of streams n of a checkpoint whose config says `scale_seq_times`: n - 1 is published, 0 is plain Qwen3."""
    return scale_seq_times + 1


def scale_seq_times_of(num_streams: int) -> int:
    """The published config value for n streams."""
    return num_streams - 1


def tokens_to_positions(tokens: int, num_streams: int) -> int:
    """Positions that `tokens` tokens own."""
    return tokens * num_streams


def positions_to_tokens(positions: int, num_streams: int) -> int:
    """Whole tokens that fit into `positions` positions (rounded down)."""
    return positions // num_streams


def whole_tokens(positions: int, num_streams: int) -> int:
    """Like `positions_to_tokens`, for a count that must be whole: raises `ValueError` when a token would be split."""
    tokens, rest = divmod(positions, num_streams)
    if rest:
        raise ValueError(
            f"{positions} positions do not make whole tokens at n = {num_streams}: {rest} positions are left over"
        )
    return tokens


def context_tokens(max_position_embeddings: int, num_streams: int) -> int:
    """Longest sequence in tokens. `max_position_embeddings` always counts positions, in both position schemes."""
    return positions_to_tokens(max_position_embeddings, num_streams)


def upcycled_context_positions(base_positions: int, growth: int, scheme: str) -> int:
    """`max_position_embeddings` after the number of streams grew by the factor `growth`.

    `contiguous` keeps the value (the trained range of positions holds fewer tokens now); `linear` multiplies it, as its
    RoPE factor divides every position again (the trained range holds as many tokens as before).
    """
    return tokens_to_positions(base_positions, growth) if scheme == "linear" else base_positions


def upcycled_rope_factor(base_factor: float, growth: int) -> float:
    """Linear RoPE factor after the number of streams grew by `growth`: a token spans as much of the range as before."""
    return base_factor * growth


def grown_streams(source_streams: int, growth: int) -> int:
    """Streams after growing by the whole factor `growth`: the inverse of `stream_growth`."""
    return source_streams * growth


def stream_growth(source_streams: int, target_streams: int) -> int:
    """The whole factor k of an upcycling n -> k * n; raises `ValueError` when there is none."""
    growth, rest = divmod(target_streams, source_streams)
    if rest or growth < 1:
        raise ValueError(f"{target_streams} streams are not a whole multiple of the source's {source_streams}")
    return growth


def replicated_stream(stream: int, source_streams: int) -> int:
    """Source stream whose table a new stream copies: cyclic replication, E_{n+k} <- E_k (0-based streams)."""
    return stream % source_streams


def kv_bytes_per_token(num_streams: int, layers: int, kv_heads: int, head_dim: int, element_bytes: int) -> int:
    """Bytes of K and V that one token keeps in all layers: 2 * layers * K * E * bytes for each of its n positions."""
    return tokens_to_positions(2 * layers * kv_heads * head_dim * element_bytes, num_streams)


def tokens_per_position(num_streams: int) -> Fraction:
    """The exact share of a token that one row of a KV cache holds: 1 / n."""
    return Fraction(1, num_streams)


def fewest_tokens_aligned(positions: int, num_streams: int) -> int:
    """The smallest number of tokens whose positions are a whole multiple of `positions`."""
    return math.lcm(positions, num_streams) // num_streams


# --------------------------------------------------------------------------------------------------------- tensors


def repeat_tokens(x: Tensor, num_streams: int, dim: int = -1) -> Tensor:
    """Repeats each entry along a token axis n times in place: [..., T, ...] -> [..., P, ...].

    Right for whatever is the same for all streams of a token: ids, 2-D padding masks, document numbers.
    """
    return x if num_streams == 1 else x.repeat_interleave(num_streams, dim=dim)


def expand_positions(positions_T: Tensor, num_streams: int) -> Tensor:
    """Token indices [..., T] -> position indices [..., P]: t -> t * n, ..., t * n + n - 1."""
    if num_streams == 1:
        return positions_T
    offsets_N = torch.arange(num_streams, device=positions_T.device, dtype=positions_T.dtype)
    return (positions_T.unsqueeze(-1) * num_streams + offsets_N).flatten(-2)


def expand_slots(slots_T: Tensor, num_streams: int) -> Tensor:
    """KV slots of tokens [T] -> KV rows of positions [P]: slot s owns rows s * n ... s * n + n - 1; -1 (none) stays."""
    rows_P = expand_positions(slots_T, num_streams)
    return torch.where(repeat_tokens(slots_T, num_streams) < 0, -1, rows_P)


def expand_offsets(offsets: Tensor, num_streams: int) -> Tensor:
    """Cumulative token counts (`cu_seqlens`, any shape) -> cumulative position counts."""
    return offsets * num_streams


def merge_streams(x_BTND: Tensor) -> Tensor:
    """[..., T, N, D] -> [..., P, D]: the streams of each token side by side on the position axis."""
    return x_BTND.flatten(-3, -2)


def split_streams(x_BPD: Tensor, num_streams: int) -> Tensor:
    """[..., P, D] -> [..., T, N, D]: the inverse of `merge_streams`; a view where the layout allows."""
    split: Tensor = x_BPD.unflatten(-2, (-1, num_streams))
    return split


def last_stream(h_BPD: Tensor, num_streams: int) -> Tensor:
    """[B, P, ...] -> [B, T, ...]: the predicting row of each token, positions t * n + n - 1; a view."""
    return h_BPD if num_streams == 1 else h_BPD[:, num_streams - 1 :: num_streams]


def expand_mask_4d(mask_B1TS: Tensor, num_streams: int, past_tokens: int | Tensor = 0) -> Tensor:
    """A ready-made attention mask in tokens [B, 1 or H, T, S] -> in positions [B, 1 or H, n * T, n * S].

    Query token t is key token `past_tokens + t`. What token t may see of *other* tokens is as the mask says, for all
    streams; inside the token itself stream i sees streams 0..i. Boolean masks mean True = may attend; float masks are
    added to the scores, and closed entries get the dtype's lowest value.
    """
    if num_streams == 1:
        return mask_B1TS
    expanded = repeat_tokens(repeat_tokens(mask_B1TS, num_streams, dim=-2), num_streams, dim=-1)
    tokens_q, tokens_k = mask_B1TS.shape[-2:]
    rows_P = expand_positions(torch.arange(tokens_q, device=mask_B1TS.device) + past_tokens, num_streams)
    columns_P = expand_positions(torch.arange(tokens_k, device=mask_B1TS.device), num_streams)
    same_token = (rows_P // num_streams)[:, None] == (columns_P // num_streams)[None, :]
    later_stream = same_token & (columns_P[None, :] > rows_P[:, None])
    closed = False if mask_B1TS.dtype == torch.bool else torch.finfo(mask_B1TS.dtype).min
    return expanded.masked_fill(later_stream, closed)


def stream_mask(
    queries: int,
    keys: int,
    past_positions: int | Tensor,
    device: torch.device,
    num_streams: int,
    *,
    intra: bool,
    window: int | None = None,
) -> Tensor:
    """Who may attend to whom, [query positions, key positions], True = may: itself and earlier rows.

    With `intra` only rows of its own stream, with `window` only those less than `window` positions back. Query row i is
    key row `past_positions + i`; whole tokens on both axes.
    """
    rows_P = torch.arange(queries, device=device) + past_positions
    back = rows_P[:, None] - torch.arange(keys, device=device)[None, :]
    allowed = back >= 0
    if intra:
        allowed &= back % num_streams == 0
    return allowed if window is None else allowed & (back < window)
