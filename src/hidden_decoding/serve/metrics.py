"""Counters for Prometheus under vLLM's names, so that dashboards made for vLLM work.

Contract: one registry per server; gauges are read from the engine when they are scraped; all counts are in tokens.

    $ curl http://127.0.0.1:8080/metrics
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.metrics_core import Metric

    from hidden_decoding.engines.local.engine import LocalEngine
    from hidden_decoding.engines.local.outputs import RequestMetrics

_SECONDS = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
    640,
    2560,
)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)


class EngineCollector(Collector):
    """What the engine knows at the moment of a scrape."""

    def __init__(self, engine: LocalEngine, model_name: str) -> None:
        self.engine = engine
        self.labels = (["model_name", "engine"], [model_name, "0"])

    def collect(self) -> Iterable[Metric]:
        """The gauges and counters."""
        stats = self.engine.stats()
        gauges = (
            ("vllm:num_requests_running", "Requests in the running batch.", stats.num_running),
            ("vllm:num_requests_waiting", "Requests waiting for room.", stats.num_waiting),
            ("vllm:kv_cache_usage_perc", "Share of the KV cache in use; 1 is all of it.", stats.kv_cache_usage),
        )
        counters = (
            ("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", stats.prefix_cache_queries),
            ("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.", stats.prefix_cache_hits),
            ("vllm:num_preemptions", "Requests that gave their KV slots back for a while.", stats.preemptions),
        )
        for name, text, value in gauges:
            gauge = GaugeMetricFamily(name, text, labels=self.labels[0])
            gauge.add_metric(self.labels[1], value)
            yield gauge
        for name, text, value in counters:
            counter = CounterMetricFamily(name, text, labels=self.labels[0])
            counter.add_metric(self.labels[1], value)
            yield counter


class Metrics:
    """The server's own counters, and the text of a scrape."""

    def __init__(self, engine: LocalEngine, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(engine, model_name))
        names = ["model_name", "engine"]
        values = (model_name, "0")

        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, names, registry=self.registry).labels(*values)

        def histogram(name: str, text: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
            return Histogram(name, text, names, registry=self.registry, buckets=buckets).labels(*values)

        self.prompt_tokens = counter("vllm:prompt_tokens", "Prompt tokens of all requests.")
        self.generation_tokens = counter("vllm:generation_tokens", "Generated tokens.")
        self.time_to_first_token = histogram("vllm:time_to_first_token_seconds", "From arrival to the first token.")
        self.inter_token_latency = histogram("vllm:inter_token_latency_seconds", "Between two tokens of an answer.")
        self.latency = histogram("vllm:e2e_request_latency_seconds", "From arrival to the end.")
        self.queue_time = histogram("vllm:request_queue_time_seconds", "From arrival to the first step.")
        self.request_prompt_tokens = histogram("vllm:request_prompt_tokens", "Prompt tokens of a request.", _TOKENS)
        self.request_generation_tokens = histogram(
            "vllm:request_generation_tokens", "Generated tokens of a request.", _TOKENS
        )
        self._success = Counter(
            "vllm:request_success", "Finished requests.", [*names, "finished_reason"], registry=self.registry
        )
        self._values = values
        self.unknown_fields = Counter(
            "hidden_decoding:unknown_request_fields",
            "Request fields that the server does not know.",
            ["field"],
            registry=self.registry,
        )

    def observe_finished(
        self, reason: str, *, prompt_tokens: int, answer_tokens: int, times: RequestMetrics | None
    ) -> None:
        """Counts one sequence that came to its end."""
        self._success.labels(*self._values, reason).inc()
        self.request_prompt_tokens.observe(prompt_tokens)
        self.request_generation_tokens.observe(answer_tokens)
        if times is None:
            return
        self.latency.observe((times.finished or time.monotonic()) - times.arrived)
        if times.scheduled is not None:
            self.queue_time.observe(times.scheduled - times.arrived)

    def scrape(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
