# ruff: noqa: ANN001, ANN202
# mypy: ignore-errors
"""The Triton kernel for spans of many tokens: one program per tile of a request's new rows and KV head.

Contract: imported only where Triton is (CUDA, or its interpreter: `TRITON_INTERPRET=1`). Reads keys and values through
the page table, whatever the page size and dtype; the H / K query heads of a KV head share each tile of keys. A program
walks the keys up to its last row's place, so a prompt read in chunks costs what the triangle costs.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from hidden_decoding.engines.local.decode_kernel import keys_per_tile

if TYPE_CHECKING:
    from torch import Tensor

    from hidden_decoding.engines.local.paged_attention import PromptRows

# Query rows of a program, all heads of the group together: what fills a tensor core's tile and still fits registers.
_TILE_QUERIES = 128


@triton.jit
def _attend_tile(
    query, keys, values, page_table, held, begins, tile_request, tile_first, attended, scale,
    query_head_stride, query_row_stride, kv_head_stride, kv_row_stride, table_stride, heads,
    ROWS: tl.constexpr, GROUP: tl.constexpr, PAGE: tl.constexpr, WIDTH: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    request = tl.load(tile_request + tl.program_id(0))
    first = tl.load(tile_first + tl.program_id(0))
    kv_head = tl.program_id(1)
    count = tl.load(held + request)
    begin = tl.load(begins + request)
    total_new = tl.load(begins + request + 1) - begin
    row = tl.arange(0, QUERIES)
    head, new = kv_head * GROUP + row // ROWS, first + row % ROWS
    is_query = (row < GROUP * ROWS) & (new < total_new)
    width = tl.arange(0, WIDTH)
    where = head[:, None] * query_head_stride + (begin + new)[:, None] * query_row_stride + width[None, :]
    q = tl.load(query + where, mask=is_query[:, None], other=0.0)
    last_seen = count - total_new + new
    end = tl.minimum(count, count - total_new + first + ROWS)
    best = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    summed = tl.zeros([QUERIES, WIDTH], tl.float32)
    base = kv_head.to(tl.int64) * kv_head_stride
    for start in range(0, end, KEYS):
        index = start + tl.arange(0, KEYS)
        inside = index < end
        page = tl.load(page_table + request * table_stride + index // PAGE, mask=inside, other=0)
        # A pool can have more elements than 32 bits count.
        place = base + (page.to(tl.int64) * PAGE + index % PAGE) * kv_row_stride
        k = tl.load(keys + place[:, None] + width[None, :], mask=inside[:, None], other=0.0)
        v = tl.load(values + place[:, None] + width[None, :], mask=inside[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        visible = inside[None, :] & (index[None, :] <= last_seen[:, None])
        scores = tl.where(visible, scores, float("-inf"))
        # Every row sees key 0, so that from the first tile on its maximum is a number.
        higher = tl.maximum(best, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        shrink = tl.exp(best - higher)
        total = total * shrink + tl.sum(weights, 1)
        summed = summed * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        best = higher
    place = ((begin + new).to(tl.int64) * heads + head)[:, None] * WIDTH + width[None, :]
    tl.store(attended + place, (summed / total[:, None]).to(attended.dtype.element_ty), mask=is_query[:, None])


def rows_per_tile(group: int) -> int:
    """New rows of a program: a power of two from 16 to 64 that fills the tile with the group's heads."""
    return max(16, min(64, _TILE_QUERIES // triton.next_power_of_2(group)))


@functools.lru_cache(maxsize=2)
def tiles(new_counts: tuple[int, ...], rows: int, device: torch.device) -> Tensor:
    """[2, tiles]: request and first new row of each program; last rows first, as they have the most keys.

    Made once a step: all layers ask for the same.
    """
    pairs = [(request, first) for request, new in enumerate(new_counts) for first in range(0, new, rows)]
    pairs.sort(key=lambda pair: -pair[1])
    return torch.tensor(pairs, dtype=torch.int32).T.contiguous().to(device)


def prompt_kernel(query_HPE: Tensor, keys_KRE: Tensor, values_KRE: Tensor, rows: PromptRows, scale: float) -> Tensor:
    """As `paged_attention.prompt_dense`. The pool's rows must be contiguous in E, keys and values laid out alike."""
    heads, positions, width = query_HPE.shape
    kv_heads = keys_KRE.shape[0]
    assert query_HPE.stride(2) == keys_KRE.stride(2) == 1, "rows must be contiguous"
    assert keys_KRE.stride() == values_KRE.stride(), "keys and values must be laid out alike"
    group = heads // kv_heads
    per_tile = rows_per_tile(group)
    places = tiles(rows.new_counts, per_tile, query_HPE.device)
    attended = torch.empty(positions, heads, width, dtype=query_HPE.dtype, device=query_HPE.device)
    _attend_tile[(places.shape[1], kv_heads)](
        query_HPE, keys_KRE, values_KRE, rows.page_table_BM, rows.held_B, rows.begins_C, places[0], places[1],
        attended, scale,
        query_HPE.stride(0), query_HPE.stride(1), keys_KRE.stride(0), keys_KRE.stride(1),
        rows.page_table_BM.stride(0), heads,
        ROWS=per_tile, GROUP=group, PAGE=rows.page_rows, WIDTH=width,
        QUERIES=triton.next_power_of_2(group * per_tile), KEYS=keys_per_tile(width * keys_KRE.element_size()),
        num_warps=8, num_stages=2,
    )  # fmt: skip
    return attended
