# ruff: noqa: ANN001, ANN202
# mypy: ignore-errors
"""The Triton kernel for decode steps: one program per request, KV head and share of the keys.

Contract: imported only where Triton is (CUDA, or its interpreter: `TRITON_INTERPRET=1`). The H / K query heads of a KV
head times the n rows of a token make one tile of queries, so every key and value is read once a step, whatever n.
A second kernel merges the shares by their log-sum-exps (flash-decoding). Lengths are read on the device.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

    from hidden_decoding.engines.local.paged_attention import DecodeRows

# Bytes of one tile of keys: with its values and two stages in flight, 64 KiB, which every card's shared memory holds.
_TILE_BYTES = 16 * 1024
# Programs per multiprocessor: enough loads in flight to fill the memory bus, few enough shares to merge.
_WAVES = 4
_MOST_SHARES = 128
# One multiprocessor's stand-in where there is no GPU (the interpreter): enough to have several shares.
_INTERPRETED_PROCESSORS = 4


@triton.jit
def _attend_share(
    query, keys, values, page_table, held, partial, lse, scale,
    query_head_stride, query_row_stride, kv_head_stride, kv_row_stride, table_stride, heads,
    NEW: tl.constexpr, GROUP: tl.constexpr, PAGE: tl.constexpr, WIDTH: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, SHARES: tl.constexpr,
):  # fmt: skip
    request, kv_head, share = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    count = tl.load(held + request)
    # Whole tiles per share; the last shares of a short request stay empty.
    per_share = tl.cdiv(tl.cdiv(count, SHARES), KEYS) * KEYS
    begin = share * per_share
    end = tl.minimum(begin + per_share, count)
    row = tl.arange(0, QUERIES)
    head, new = kv_head * GROUP + row // NEW, row % NEW
    is_query = row < GROUP * NEW
    width = tl.arange(0, WIDTH)
    where = head[:, None] * query_head_stride + (request * NEW + new)[:, None] * query_row_stride + width[None, :]
    q = tl.load(query + where, mask=is_query[:, None], other=0.0)
    last_seen = count - NEW + new
    best = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    summed = tl.zeros([QUERIES, WIDTH], tl.float32)
    base = kv_head.to(tl.int64) * kv_head_stride
    for first in range(begin, end, KEYS):
        index = first + tl.arange(0, KEYS)
        inside = index < end
        page = tl.load(page_table + request * table_stride + index // PAGE, mask=inside, other=0)
        # A pool can have more elements than 32 bits count.
        place = base + (page.to(tl.int64) * PAGE + index % PAGE) * kv_row_stride
        k = tl.load(keys + place[:, None] + width[None, :], mask=inside[:, None], other=0.0)
        v = tl.load(values + place[:, None] + width[None, :], mask=inside[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        visible = inside[None, :] & (index[None, :] <= last_seen[:, None])
        scores = tl.where(visible, scores, float("-inf"))
        higher = tl.maximum(best, tl.max(scores, 1))
        # A row may see no key of this share at all: -inf minus -inf must not become NaN.
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp(scores - safe[:, None])
        shrink = tl.exp(best - safe)
        total = total * shrink + tl.sum(weights, 1)
        summed = summed * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        best = higher
    seen = total > 0
    divisor = tl.where(seen, total, 1.0)
    slot = ((request * NEW + new) * heads + head) * SHARES + share
    tl.store(
        partial + slot.to(tl.int64)[:, None] * WIDTH + width[None, :], summed / divisor[:, None], mask=is_query[:, None]
    )
    tl.store(lse + slot, tl.where(seen, best + tl.log(divisor), float("-inf")), mask=is_query)


@triton.jit
def _merge_shares(partial, lse, attended, WIDTH: tl.constexpr, SHARES: tl.constexpr, PADDED: tl.constexpr):
    row = tl.program_id(0)
    share, width = tl.arange(0, PADDED), tl.arange(0, WIDTH)
    logs = tl.load(lse + row * SHARES + share, mask=share < SHARES, other=float("-inf"))
    weights = tl.exp(logs - tl.max(logs, 0))
    place = (row * SHARES + share).to(tl.int64)[:, None] * WIDTH + width[None, :]
    parts = tl.load(partial + place, mask=(share < SHARES)[:, None], other=0.0)
    merged = tl.sum(parts * weights[:, None], 0) / tl.sum(weights, 0)
    tl.store(attended + row.to(tl.int64) * WIDTH + width, merged.to(attended.dtype.element_ty))


@functools.lru_cache(maxsize=8)
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return _INTERPRETED_PROCESSORS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def keys_per_tile(row_bytes: int) -> int:
    """Keys that a program reads at a time: a power of two from 16, the least a tensor core takes, to 64."""
    return max(16, min(64, _TILE_BYTES // row_bytes))


def shares_for(programs: int, processors: int, most_keys: int, tile_keys: int) -> int:
    """Shares of the keys per request and KV head: fill the machine, but no share below one tile of keys."""
    return max(1, min(-(-_WAVES * processors // programs), -(-most_keys // tile_keys), _MOST_SHARES))


def decode_kernel(query_HPE: Tensor, keys_KRE: Tensor, values_KRE: Tensor, rows: DecodeRows, scale: float) -> Tensor:
    """As `paged_attention.decode_dense`. The pool's rows must be contiguous in E, keys and values laid out alike."""
    heads, positions, width = query_HPE.shape
    kv_heads, requests = keys_KRE.shape[0], len(rows.held_B)
    assert query_HPE.stride(2) == keys_KRE.stride(2) == 1, "rows must be contiguous"
    assert keys_KRE.stride() == values_KRE.stride(), "keys and values must be laid out alike"
    most_keys = rows.page_table_BM.shape[1] * rows.page_rows
    tile_keys = keys_per_tile(width * keys_KRE.element_size())
    shares = shares_for(requests * kv_heads, _processors(query_HPE.device), most_keys, tile_keys)
    partial = torch.empty(positions, heads, shares, width, dtype=torch.float32, device=query_HPE.device)
    lse = torch.empty(positions, heads, shares, dtype=torch.float32, device=query_HPE.device)
    attended = torch.empty(positions, heads, width, dtype=query_HPE.dtype, device=query_HPE.device)
    tile: dict[str, Any] = {
        "NEW": rows.new_rows,
        "GROUP": heads // kv_heads,
        "PAGE": rows.page_rows,
        "WIDTH": width,
        "QUERIES": max(16, triton.next_power_of_2(heads // kv_heads * rows.new_rows)),
        "KEYS": tile_keys,
        "SHARES": shares,
    }
    _attend_share[(requests, kv_heads, shares)](
        query_HPE, keys_KRE, values_KRE, rows.page_table_BM, rows.held_B, partial, lse, scale,
        query_HPE.stride(0), query_HPE.stride(1), keys_KRE.stride(0), keys_KRE.stride(1),
        rows.page_table_BM.stride(0), heads, **tile, num_warps=4, num_stages=2,
    )  # fmt: skip
    _merge_shares[(positions * heads,)](
        partial, lse, attended, WIDTH=width, SHARES=shares, PADDED=triton.next_power_of_2(shares)
    )
    return attended
