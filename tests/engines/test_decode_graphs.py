"""Decode steps from static buffers, replayed eagerly: the same answers, and nothing but the request's own rows."""

from __future__ import annotations

import random

import pytest
import torch

from hidden_decoding import LocalEngine, SamplingParams
from hidden_decoding.engines.local.decode_graphs import DecodeGraphs, bucket_sizes
from hidden_decoding.engines.local.paged_decode import DecodeRows, paged_decode_dense
from tests.support import LOGIT_TOLERANCE, BruteForce, assert_same_greedy, tiny_model

GREEDY = {"temperature": 0.0, "ignore_eos": True}


def engine_with_buffers(num_streams: int, **options) -> LocalEngine:
    model = tiny_model(num_streams)
    local = LocalEngine.from_model(model, kv_cache_memory_bytes="4MiB", max_num_seqs=6, block_size=4, **options)
    local.runner.decoder = DecodeGraphs(
        model, local.runner.pool, block_size=4, most_requests=6, most_tokens=local.max_model_len
    )
    # What was never written may hold anything; it must not reach an answer.
    local.runner.pool.keys_LKPE.fill_(float("nan"))
    local.runner.pool.values_LKPE.fill_(float("nan"))
    return local


@pytest.mark.parametrize("num_streams", [1, 2, 3, 8])
def test_padded_replays_equal_brute_force(num_streams):
    local = engine_with_buffers(num_streams, max_model_len=64, max_num_batched_tokens=9)
    rng, buckets = random.Random(1), []
    cases = [[rng.randrange(3, 512) for _ in range(rng.randint(1, 20))] for _ in range(7)]
    wanted = [SamplingParams(max_tokens=4 + index, **GREEDY) for index in range(7)]
    original = local.runner.decoder._forward
    local.runner.decoder._forward = lambda bucket: buckets.append(bucket) or original(bucket)
    outputs = local.generate(cases, wanted)
    reference, compared = BruteForce(tiny_model(num_streams)), 0
    for prompt, params, output in zip(cases, wanted, outputs, strict=True):
        expected, gaps = reference.greedy(prompt, params.max_tokens)
        compared += assert_same_greedy(output.token_ids, expected, gaps, LOGIT_TOLERANCE)
    assert compared > 0.9 * sum(params.max_tokens for params in wanted)
    assert len(set(buckets)) > 1, "no step was padded to another bucket"
    assert set(buckets) <= set(bucket_sizes(6))


def test_buffers_keep_their_addresses_and_unused_rows_point_to_scratch():
    local = engine_with_buffers(2, max_model_len=32)
    buffers = local.runner.decoder.buffers
    addresses = [value.data_ptr() for value in vars(buffers).values() if isinstance(value, torch.Tensor)]
    local.generate([[5, 6], [7], [8]], SamplingParams(max_tokens=3, **GREEDY))
    assert addresses == [value.data_ptr() for value in vars(buffers).values() if isinstance(value, torch.Tensor)]
    assert buffers.slots_B[3:4].tolist() == [local.runner.pool.scratch_slot]
    assert buffers.held_B[3:4].tolist() == [2]


def test_buckets_reach_the_largest_batch_and_no_further():
    assert bucket_sizes(1) == [1]
    assert bucket_sizes(6) == [1, 2, 4, 6]
    assert bucket_sizes(20) == [1, 2, 4, 8, 16, 20]


@pytest.mark.parametrize("new_rows", [1, 3, 8])
def test_dense_decode_equals_attention_over_each_requests_own_rows(new_rows):
    torch.manual_seed(0)
    heads, kv_heads, width, page_rows = 4, 2, 16, 4 * new_rows
    pages = torch.tensor([[3, 1, 5], [4, 0, 2]], dtype=torch.int32)
    held = torch.tensor([2 * page_rows + new_rows, new_rows], dtype=torch.int32)
    keys, values = torch.randn(2, kv_heads, 6 * page_rows, width)
    query = torch.randn(heads, 2 * new_rows, width)
    rows = DecodeRows(page_table_BM=pages, held_B=held, page_rows=page_rows, new_rows=new_rows)
    got = paged_decode_dense(query, keys, values, rows, 0.25)
    for request in range(2):
        own = torch.cat([torch.arange(page_rows) + page * page_rows for page in pages[request].tolist()])
        for row in range(new_rows):
            seen = own[: int(held[request]) - new_rows + row + 1]
            for head in range(heads):
                position = request * new_rows + row
                weights = (keys[head // 2, seen] @ query[head, position] * 0.25).softmax(0)
                torch.testing.assert_close(got[position, head], weights @ values[head // 2, seen], atol=1e-5, rtol=0)
