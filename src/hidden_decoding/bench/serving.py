"""Load on any OpenAI-compatible server: closed loop (so many at once) or open loop (so many a second), by a seed.

Contract: sends token-id prompts to /v1/completions and streams the answers; the report has the keys of `vllm bench
serve`, so existing plots read it. Times are seconds unless a name ends in _ms; lengths count tokens.

    $ hidden-decoding bench serve --base-url http://127.0.0.1:8080/v1 --max-concurrency 8
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from hidden_decoding.bench.workload import draw
from hidden_decoding.errors import ConfigError, DependencyError

if TYPE_CHECKING:
    import httpx

    from hidden_decoding.bench.workload import WorkItem, WorkloadConfig


@dataclass(frozen=True, kw_only=True)
class LoadConfig:
    """Where the load goes and how it comes."""

    base_url: str = field(default="http://127.0.0.1:8080/v1", metadata={"help": "the server, up to and with /v1"})
    model: str = field(default="default", metadata={"help": "name of the model to ask for"})
    api_key: str | None = field(default=None, metadata={"help": "sent as a Bearer token"})
    max_concurrency: int | None = field(default=None, metadata={"help": "most requests at once (default: no limit)"})
    request_rate: float | None = field(
        default=None, metadata={"help": "requests a second, at random times (default: as fast as concurrency allows)"}
    )
    timeout: float = field(default=600.0, metadata={"help": "seconds one request may take"})

    def __post_init__(self) -> None:
        if self.max_concurrency is not None and self.max_concurrency < 1:
            raise ConfigError(f"max_concurrency is {self.max_concurrency}; it must be a whole number from 1")
        if self.request_rate is not None and not self.request_rate > 0:
            raise ConfigError(f"request_rate is {self.request_rate}; it must be above 0")


@dataclass(kw_only=True)
class Sample:
    """What one request met."""

    prompt_tokens: int
    answer_tokens: int = 0
    ttft: float = 0.0
    itl: list[float] = field(default_factory=list)
    latency: float = 0.0
    text: str = ""
    error: str = ""


async def run_load(load: LoadConfig, workload: WorkloadConfig, *, progress: bool = True) -> dict[str, Any]:
    """Sends the workload; returns the report."""
    try:
        import httpx
    except ImportError as error:
        raise DependencyError("bench serve needs httpx; run: pip install 'hidden-decoding[serve]'") from error
    items = draw(workload)
    headers = {"authorization": f"Bearer {load.api_key}"} if load.api_key else {}
    gate = asyncio.Semaphore(load.max_concurrency or len(items))
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    started = time.perf_counter()
    with tqdm(total=len(items), unit="request", disable=not progress, file=sys.stderr) as bar:
        async with httpx.AsyncClient(headers=headers, timeout=load.timeout, limits=limits) as client:

            async def one(item: WorkItem, due: float) -> Sample:
                await asyncio.sleep(max(0.0, due - (time.perf_counter() - started)))
                async with gate:
                    sample = await _request(client, load, item)
                bar.update()
                return sample

            arrivals = _arrivals(load, workload)
            samples = await asyncio.gather(*(one(item, due) for item, due in zip(items, arrivals, strict=True)))
    return report(load, workload, samples, time.perf_counter() - started)


def _arrivals(load: LoadConfig, workload: WorkloadConfig) -> list[float]:
    """Seconds after the start at which each request is due: a Poisson process, or all at once."""
    if load.request_rate is None:
        return [0.0] * workload.num_prompts
    rng = random.Random(workload.seed + 1)
    times, now = [], 0.0
    for _ in range(workload.num_prompts):
        now += rng.expovariate(load.request_rate)
        times.append(now)
    return times


async def _request(client: httpx.AsyncClient, load: LoadConfig, item: WorkItem) -> Sample:
    import httpx

    sample = Sample(prompt_tokens=len(item.prompt_token_ids))
    body = {
        "model": load.model,
        "prompt": item.prompt_token_ids,
        "max_tokens": item.answer_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started = last = time.perf_counter()
    try:
        async with client.stream("POST", f"{load.base_url.rstrip('/')}/completions", json=body) as response:
            if response.status_code != 200:
                sample.error = f"HTTP {response.status_code}: {(await response.aread()).decode(errors='replace')[:300]}"
                return sample
            async for line in response.aiter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                event = json.loads(line.removeprefix("data: "))
                now = time.perf_counter()
                if event.get("choices"):
                    _note_chunk(sample, event["choices"][0], now - started, now - last)
                    last = now
                if event.get("error"):
                    sample.error = str(event["error"].get("message"))
                if event.get("usage"):
                    sample.answer_tokens = event["usage"]["completion_tokens"]
    except (httpx.HTTPError, json.JSONDecodeError) as error:
        sample.error = f"{type(error).__name__}: {error}"
    sample.latency = time.perf_counter() - started
    return sample


def _note_chunk(sample: Sample, choice: dict[str, Any], since_start: float, since_last: float) -> None:
    if not sample.ttft:
        sample.ttft = since_start
    else:
        sample.itl.append(since_last)
    sample.text += choice.get("text") or ""


def report(load: LoadConfig, workload: WorkloadConfig, samples: list[Sample], duration: float) -> dict[str, Any]:
    """The figures, under the names `vllm bench serve` uses."""
    done = [sample for sample in samples if not sample.error]
    prompt_tokens = sum(sample.prompt_tokens for sample in done)
    answer_tokens = sum(sample.answer_tokens for sample in done)
    per_token = [(s.latency - s.ttft) / (s.answer_tokens - 1) for s in done if s.answer_tokens > 1]
    return {
        "date": datetime.now().astimezone().strftime("%Y%m%d-%H%M%S"),
        "backend": "openai",
        "model_id": load.model,
        "num_prompts": workload.num_prompts,
        "seed": workload.seed,
        "request_rate": "inf" if load.request_rate is None else load.request_rate,
        "max_concurrency": load.max_concurrency,
        "duration": duration,
        "completed": len(done),
        "failed": len(samples) - len(done),
        "total_input_tokens": prompt_tokens,
        "total_output_tokens": answer_tokens,
        "request_throughput": len(done) / duration,
        "output_throughput": answer_tokens / duration,
        "total_token_throughput": (prompt_tokens + answer_tokens) / duration,
        **_distribution("ttft", [s.ttft for s in done]),
        **_distribution("tpot", per_token),
        **_distribution("itl", [gap for s in done for gap in s.itl]),
        **_distribution("e2el", [s.latency for s in done]),
        "input_lens": [s.prompt_tokens for s in samples],
        "output_lens": [s.answer_tokens for s in samples],
        "ttfts": [s.ttft for s in samples],
        "itls": [s.itl for s in samples],
        "generated_texts": [s.text for s in samples],
        "errors": [s.error for s in samples],
    }


def _distribution(name: str, seconds: list[float]) -> dict[str, float]:
    values = sorted(1000 * value for value in seconds) or [0.0]
    return {
        f"mean_{name}_ms": statistics.fmean(values),
        f"median_{name}_ms": statistics.median(values),
        f"std_{name}_ms": statistics.pstdev(values),
        f"p99_{name}_ms": values[min(len(values) - 1, int(0.99 * len(values)))],
        f"max_{name}_ms": values[-1],
    }
