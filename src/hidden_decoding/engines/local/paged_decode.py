"""Decode attention over the paged KV pool: every request's n new rows share one sweep over its keys and values.

Contract: request b of the step owns query rows b * n ... b * n + n - 1, the last n of its `held` positions; row i sees
all but the rows after it. Shapes never depend on lengths, so a CUDA graph can replay the call. On CUDA a Triton kernel
(`paged_kernel`, split over the keys as in flash-decoding) computes it, elsewhere the same in plain PyTorch.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class DecodeRows:
    """Where B decoding requests' rows are. Page p of the pool is rows p * page_rows ... of every layer."""

    page_table_BM: Tensor  # [B, most pages of a request]
    held_B: Tensor  # positions, old and new
    page_rows: int
    new_rows: int  # n


def kernel_available(device: torch.device, head_dim: int) -> bool:
    """Whether the Triton kernel can run: CUDA, Triton installed, and a head size its tiles can hold."""
    fits = 16 <= head_dim <= 256 and head_dim & (head_dim - 1) == 0
    return device.type == "cuda" and fits and importlib.util.find_spec("triton") is not None


def paged_decode(query_HPE: Tensor, keys_KRE: Tensor, values_KRE: Tensor, rows: DecodeRows, scale: float) -> Tensor:
    """[H, P, E] queries over the pool's [K, R, E] rows of one layer -> [P, H, E]."""
    if kernel_available(query_HPE.device, query_HPE.shape[-1]):
        from hidden_decoding.engines.local.paged_kernel import paged_decode_kernel

        return paged_decode_kernel(query_HPE, keys_KRE, values_KRE, rows, scale)
    return paged_decode_dense(query_HPE, keys_KRE, values_KRE, rows, scale)


def paged_decode_dense(
    query_HPE: Tensor, keys_KRE: Tensor, values_KRE: Tensor, rows: DecodeRows, scale: float
) -> Tensor:
    """The same by gathering all pages and a softmax in fp32: the kernel's reference, and what a CPU replays."""
    heads, _, width = query_HPE.shape
    requests, most_pages = rows.page_table_BM.shape
    offsets = torch.arange(rows.page_rows, device=query_HPE.device)
    rows_BS = (rows.page_table_BM.long()[:, :, None] * rows.page_rows + offsets).flatten(1)
    index_S = torch.arange(most_pages * rows.page_rows, device=query_HPE.device)
    last_seen_BN = rows.held_B[:, None] - rows.new_rows + torch.arange(rows.new_rows, device=query_HPE.device)
    closed_BNS = index_S > last_seen_BN[:, :, None]
    # Rows past the pool's end or never written may hold anything, NaN too: they must not enter the sum as 0 * NaN.
    rows_BS = rows_BS.where(index_S < rows.held_B[:, None], rows_BS[:, :1])
    kv_heads = keys_KRE.shape[0]
    keys_KBSE, values_KBSE = keys_KRE[:, rows_BS].float(), values_KRE[:, rows_BS].float()
    query = query_HPE.float().view(kv_heads, heads // kv_heads, requests, rows.new_rows, width)
    scores = torch.einsum("kgbne,kbse->kgbns", query, keys_KBSE) * scale
    weights = scores.masked_fill(closed_BNS, float("-inf")).softmax(-1)
    attended = torch.einsum("kgbns,kbse->bnkge", weights, values_KBSE)
    return attended.reshape(requests * rows.new_rows, heads, width).to(query_HPE.dtype)
