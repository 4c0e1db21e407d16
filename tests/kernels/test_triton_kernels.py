"""The local engine's Triton kernels, run by Triton's interpreter on a CPU: `make test-kernels`.

The interpreter runs the same source with the same index arithmetic, block by block; what it cannot show is that a
compiler accepts it, and how fast it is.
"""

from __future__ import annotations

import os

import pytest
import torch

from hidden_decoding.engines.local.paged_choice import choose_paged_attention
from tests.engines.paged_cases import Pool, assert_answers_equal_brute_force

assert os.environ.get("TRITON_INTERPRET") == "1", "run by: make test-kernels"

from hidden_decoding.engines.local import decode_kernel as decode_module  # noqa: E402
from hidden_decoding.engines.local.decode_kernel import decode_kernel  # noqa: E402
from hidden_decoding.engines.local.prompt_kernel import prompt_kernel, rows_per_tile, tiles  # noqa: E402

# fp32 only reorders sums; a half rounds the weights before the product with values, and the result.
CLOSE = {torch.float32: {"atol": 1e-5, "rtol": 0}, torch.float16: {"atol": 4e-3, "rtol": 0}}
DTYPES = list(CLOSE)
HEADS = [(4, 2), (2, 2), (6, 2), (5, 1)]  # groups of 2, 1, 3 and 5 heads
SPANS = [([7], [7]), ([40, 3, 17], [9, 3, 1]), ([150, 64, 5, 1, 90], [149, 1, 5, 1, 33])]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("new_rows", [1, 2, 3, 4, 8])
def test_decode(new_rows, heads, dtype):
    pool = Pool([47 * new_rows, new_rows, 9 * new_rows], page_rows=5 * new_rows, heads=heads, dtype=dtype)
    query = pool.query(3 * new_rows)
    got = decode_kernel(query, pool.keys, pool.values, pool.decode_rows(new_rows), pool.scale)
    expected = pool.expected(query, [new_rows] * 3)
    torch.testing.assert_close(got.float(), expected, **CLOSE[dtype])


@pytest.mark.parametrize("shares", [1, 2, 7, 64])
def test_decode_in_any_number_of_shares(monkeypatch, shares):
    """More shares than tiles of keys leave some empty; their -inf must not become NaN."""
    monkeypatch.setattr(decode_module, "shares_for", lambda *args: shares)
    pool = Pool([300, 2, 34], page_rows=8)
    query = pool.query(6)
    got = decode_kernel(query, pool.keys, pool.values, pool.decode_rows(2), pool.scale)
    torch.testing.assert_close(got, pool.expected(query, [2, 2, 2]), **CLOSE[torch.float32])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize(("held", "new"), SPANS)
@pytest.mark.parametrize("page_rows", [1, 6, 16])
def test_prompt(held, new, heads, dtype, page_rows):
    pool = Pool(held, page_rows=page_rows, heads=heads, dtype=dtype)
    query = pool.query(sum(new))
    got = prompt_kernel(query, pool.keys, pool.values, pool.prompt_rows(new), pool.scale)
    torch.testing.assert_close(got.float(), pool.expected(query, new), **CLOSE[dtype])


def test_wide_heads_make_smaller_tiles_of_keys():
    pool = Pool([70, 40], page_rows=16, heads=(2, 1), width=128)
    assert decode_module.keys_per_tile(128 * 4) == 32
    query = pool.query(90)
    got = prompt_kernel(query, pool.keys, pool.values, pool.prompt_rows([60, 30]), pool.scale)
    torch.testing.assert_close(got, pool.expected(query, [60, 30]), **CLOSE[torch.float32])


def test_tiles_cover_every_new_row_once_and_the_longest_come_first():
    for group in (1, 2, 3, 4, 5, 8, 16):
        rows = rows_per_tile(group)
        assert rows in (16, 32, 64)
    counts = (1, 70, 16, 33)
    listed = tiles(counts, 16, torch.device("cpu")).T.tolist()
    covered = sorted((b, row) for b, first in listed for row in range(first, min(first + 16, counts[b])))
    assert covered == [(b, row) for b, count in enumerate(counts) for row in range(count)]
    assert [first for _, first in listed] == sorted((first for _, first in listed), reverse=True)


@pytest.mark.parametrize("num_streams", [1, 2, 4, 8])
def test_answers_by_the_kernels_equal_brute_force(num_streams):
    sizes = {"heads": 4, "kv_heads": 2, "head_dim": 16}
    chosen = choose_paged_attention(torch.device("cpu"), torch.float32, **sizes)
    assert chosen.name == "decode triton, prompts triton"
    assert_answers_equal_brute_force(num_streams, chosen)
