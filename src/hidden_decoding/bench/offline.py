"""Throughput of the local engine in this process on a drawn workload, all requests handed over at once.

$ hidden-decoding bench offline path/to/checkpoint --num-prompts 50
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from hidden_decoding.bench.workload import draw
from hidden_decoding.engines.local.sampling_params import SamplingParams

if TYPE_CHECKING:
    from hidden_decoding.bench.workload import WorkloadConfig
    from hidden_decoding.engines.local.engine import LocalEngine


def fitted(workload: WorkloadConfig, engine: LocalEngine) -> WorkloadConfig:
    """The workload with requests no longer than the model's context and ids of its vocabulary; the report says so.

    Lengths that were asked for stay: where they do not fit, the engine's own refusal is the answer.
    """
    vocabulary = min(workload.vocab_size, engine.model_config.vocab_size)
    asked = (workload.input_len or 1) + (workload.output_len or 1)
    longest = min(workload.max_request_tokens, max(asked, engine.max_model_len))
    return replace(workload, vocab_size=vocabulary, max_request_tokens=longest)


def run_offline(engine: LocalEngine, workload: WorkloadConfig, *, progress: bool = True) -> dict[str, Any]:
    """Runs the workload to its end; keys are those of `vllm bench throughput`, and more in tokens and positions."""
    workload = fitted(workload, engine)
    items = draw(workload)
    started = time.perf_counter()
    for item in items:
        engine.add_request(
            item.prompt_token_ids, SamplingParams(max_tokens=item.answer_tokens, temperature=0.0, ignore_eos=True)
        )
    answered = 0
    with tqdm(total=len(items), unit="request", disable=not progress, file=sys.stderr) as bar:
        while engine.has_unfinished:
            for delta in engine.step():
                answered += len(delta.token_ids)
                bar.update(delta.finish_reason is not None)
    elapsed = time.perf_counter() - started
    prompt_tokens = sum(len(item.prompt_token_ids) for item in items)
    stats = engine.stats()
    return {
        "elapsed_time": elapsed,
        "num_requests": len(items),
        "total_num_tokens": prompt_tokens + answered,
        "requests_per_second": len(items) / elapsed,
        "tokens_per_second": (prompt_tokens + answered) / elapsed,
        "prompt_tokens": prompt_tokens,
        "answer_tokens": answered,
        "answer_tokens_per_second": answered / elapsed,
        "streams": engine.num_streams,
        "max_request_tokens": workload.max_request_tokens,
        "vocab_size": workload.vocab_size,
        "steps": stats.steps,
        "preemptions": stats.preemptions,
    }
