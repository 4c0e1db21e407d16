"""Attention over the paged KV pool for all requests of a step at once, in place of one call per request.

Contract: two calls, one for requests that add one token (`DecodeRows`), one for requests that add more (`PromptRows`).
Request b owns the last of its `held` positions as new rows; row i of them sees all but the rows after it. Page p of the
pool is rows p * page_rows ... of every layer. The functions here gather whole pages and take a softmax in fp32: they
are what the kernels (`paged_choice`) are checked against, and what a CPU runs when it stands in for a GPU in tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class DecodeRows:
    """Where B decoding requests' rows are; request b has query rows b * n ... b * n + n - 1.

    Shapes never depend on lengths, so a CUDA graph can replay a call.
    """

    page_table_BM: Tensor  # [B, most pages of a request]
    held_B: Tensor  # positions, old and new
    page_rows: int
    new_rows: int  # n


@dataclass(frozen=True, kw_only=True)
class PromptRows:
    """Where the rows of B requests are that add any number of tokens each; all counts are positions.

    Request b has query rows begins[b] ... begins[b + 1] - 1. `rows_S` names every row held, request after request, as
    `held_begins` cuts it: what an attention that cannot read pages gathers.
    """

    page_table_BM: Tensor
    held_B: Tensor
    begins_C: Tensor  # [B + 1]
    held_begins_C: Tensor  # [B + 1]
    rows_S: Tensor
    page_rows: int
    new_counts: tuple[int, ...]  # per request, on the host
    most_held: int

    @property
    def most_new(self) -> int:
        """New rows of the longest span."""
        return max(self.new_counts)


# (queries [H, P, E], keys and values of one layer's pool [K, R, E], rows, scale) -> [P, H, E]
AttendDecode: TypeAlias = "Callable[[Tensor, Tensor, Tensor, DecodeRows, float], Tensor]"
AttendPrompt: TypeAlias = "Callable[[Tensor, Tensor, Tensor, PromptRows, float], Tensor]"


@dataclass(frozen=True, kw_only=True)
class PagedAttention:
    """The two calls, and what they are called in logs and records."""

    name: str
    decode: AttendDecode
    prompt: AttendPrompt


def decode_dense(query_HPE: Tensor, keys_KRE: Tensor, values_KRE: Tensor, rows: DecodeRows, scale: float) -> Tensor:
    """All decoding requests by gathering all their pages, padded to the longest."""
    heads, _, width = query_HPE.shape
    requests, most_pages = rows.page_table_BM.shape
    index_S = torch.arange(most_pages * rows.page_rows, device=query_HPE.device)
    last_seen_BN = rows.held_B[:, None] - rows.new_rows + torch.arange(rows.new_rows, device=query_HPE.device)
    closed_BNS = index_S > last_seen_BN[:, :, None]
    rows_BS = _rows_of_pages(rows.page_table_BM, rows.page_rows)
    # Rows past the pool's end or never written may hold anything, NaN too: they must not enter the sum as 0 * NaN.
    rows_BS = rows_BS.where(index_S < rows.held_B[:, None], rows_BS[:, :1])
    kv_heads = keys_KRE.shape[0]
    keys_KBSE, values_KBSE = keys_KRE[:, rows_BS].float(), values_KRE[:, rows_BS].float()
    query = query_HPE.float().view(kv_heads, heads // kv_heads, requests, rows.new_rows, width)
    scores = torch.einsum("kgbne,kbse->kgbns", query, keys_KBSE) * scale
    weights = scores.masked_fill(closed_BNS, float("-inf")).softmax(-1)
    attended = torch.einsum("kgbns,kbse->bnkge", weights, values_KBSE)
    return attended.reshape(requests * rows.new_rows, heads, width).to(query_HPE.dtype)


def prompt_dense(query_HPE: Tensor, keys_KRE: Tensor, values_KRE: Tensor, rows: PromptRows, scale: float) -> Tensor:
    """Request by request, from its pages alone."""
    heads, positions, width = query_HPE.shape
    kv_heads = keys_KRE.shape[0]
    attended = query_HPE.new_empty(positions, heads, width)
    tables = _rows_of_pages(rows.page_table_BM, rows.page_rows)
    for own_S, held, begin, new in zip(
        tables, rows.held_B.tolist(), rows.begins_C.tolist(), rows.new_counts, strict=False
    ):
        keys_KSE, values_KSE = keys_KRE[:, own_S[:held]].float(), values_KRE[:, own_S[:held]].float()
        query = query_HPE[:, begin : begin + new].float().view(kv_heads, heads // kv_heads, new, width)
        scores = torch.einsum("kgpe,kse->kgps", query, keys_KSE) * scale
        closed_PS = torch.ones(new, held, dtype=torch.bool, device=query.device).triu(held - new + 1)
        weights = scores.masked_fill(closed_PS, float("-inf")).softmax(-1)
        part = torch.einsum("kgps,kse->pkge", weights, values_KSE)
        attended[begin : begin + new] = part.reshape(new, heads, width)
    return attended


def _rows_of_pages(page_table_BM: Tensor, page_rows: int) -> Tensor:
    """[B, M] pages -> [B, M * page_rows] rows of the pool."""
    offsets = torch.arange(page_rows, device=page_table_BM.device)
    return (page_table_BM.long()[:, :, None] * page_rows + offsets).flatten(1)


DENSE = PagedAttention(name="dense", decode=decode_dense, prompt=prompt_dense)
