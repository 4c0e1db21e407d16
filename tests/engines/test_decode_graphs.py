"""Decode steps from static buffers, replayed eagerly: the same answers, and nothing but the request's own rows."""

from __future__ import annotations

import random

import pytest
import torch

from hidden_decoding import LocalEngine, SamplingParams
from hidden_decoding.engines.local.decode_graphs import DecodeGraphs, bucket_sizes
from hidden_decoding.engines.local.paged_attention import DENSE
from tests.support import LOGIT_TOLERANCE, BruteForce, assert_same_greedy, tiny_model

GREEDY = {"temperature": 0.0, "ignore_eos": True}


def engine_with_buffers(num_streams: int, **options) -> LocalEngine:
    model = tiny_model(num_streams)
    local = LocalEngine.from_model(model, kv_cache_memory_bytes="4MiB", max_num_seqs=6, block_size=4, **options)
    local.runner.decoder = DecodeGraphs(
        model, local.runner.pool, DENSE, block_size=4, most_requests=6, most_tokens=local.max_model_len
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
