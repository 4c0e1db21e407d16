"""Drawn workloads: the same for the same seed, within their limits, refused when impossible."""

from __future__ import annotations

import statistics

import pytest

from hidden_decoding.bench.offline import run_offline
from hidden_decoding.bench.serving import LoadConfig, Sample, report
from hidden_decoding.bench.workload import WorkloadConfig, draw
from hidden_decoding.engines.local.engine import LocalEngine
from hidden_decoding.errors import ConfigError
from tests.support import tiny_model


def test_the_seed_decides_everything():
    assert draw(WorkloadConfig(seed=4)) == draw(WorkloadConfig(seed=4))
    assert draw(WorkloadConfig(seed=4)) != draw(WorkloadConfig(seed=5))


def test_lengths_stay_in_bounds_and_vary():
    items = draw(WorkloadConfig(num_prompts=400, max_request_tokens=512, vocab_size=300))
    assert all(len(item.prompt_token_ids) + item.answer_tokens <= 512 for item in items)
    assert all(3 <= token < 300 for item in items for token in item.prompt_token_ids)
    assert statistics.pstdev(len(item.prompt_token_ids) for item in items) > 30
    assert 30 < statistics.median(len(item.prompt_token_ids) for item in items) < 100


def test_fixed_lengths_are_kept():
    items = draw(WorkloadConfig(num_prompts=5, input_len=7, output_len=9))
    assert [(len(item.prompt_token_ids), item.answer_tokens) for item in items] == [(7, 9)] * 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_prompts": 0}, "num_prompts"),
        ({"input_len": 900, "output_len": 900}, "1800 tokens"),
        ({"vocab_size": 3}, "ids"),
    ],
)
def test_impossible_workloads_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        WorkloadConfig(**options)


def test_offline_counts_what_it_was_asked():
    workload = WorkloadConfig(num_prompts=6, vocab_size=512, max_request_tokens=60)
    engine = LocalEngine.from_model(tiny_model(2), kv_cache_memory_bytes="8MiB")
    result = run_offline(engine, workload, progress=False)
    items = draw(workload)
    assert result["answer_tokens"] == sum(item.answer_tokens for item in items)
    assert result["prompt_tokens"] == sum(len(item.prompt_token_ids) for item in items)
    assert result["tokens_per_second"] > result["answer_tokens_per_second"] > 0


def test_a_report_counts_failures_apart():
    fine = Sample(prompt_tokens=5, answer_tokens=3, ttft=0.1, itl=[0.2, 0.3], latency=0.6)
    broken = Sample(prompt_tokens=5, error="HTTP 500")
    result = report(LoadConfig(), WorkloadConfig(num_prompts=2), [fine, broken], 2.0)
    assert (result["completed"], result["failed"], result["total_output_tokens"]) == (1, 1, 3)
    assert result["median_ttft_ms"] == pytest.approx(100)
    assert result["mean_tpot_ms"] == pytest.approx(250)
    assert result["max_itl_ms"] == pytest.approx(300)
