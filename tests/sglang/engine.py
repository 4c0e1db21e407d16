"""Starting SGLang on tiny checkpoints, asking it, and holding its answers against brute force."""

from __future__ import annotations

import contextlib
import functools
import random

from tests.equivalence.tolerances import FP32_LOGITS
from tests.support import BruteForce, assert_same_greedy, tiny_model

NEW = 16
CHUNK = 13  # tokens per step of prompts: divides neither the prompts nor the context
SLOTS = 300  # tokens the cache holds: fewer than 16 mixed requests need at once
CONTEXT = 256  # tokens: tests.support.tiny_config


@functools.cache
def reference(num_streams: int, scheme: str) -> BruteForce:
    return BruteForce(tiny_model(num_streams, scheme))


@functools.cache
def expected_greedy(num_streams: int, scheme: str, prompt: tuple[int, ...], tokens: int = NEW):
    return reference(num_streams, scheme).greedy(list(prompt), tokens)


def prompts(count: int, seed: int = 0, longest: int = 60) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(3, 512) for _ in range(rng.randint(1, longest))] for _ in range(count)]


@contextlib.contextmanager
def started(directory, **options):
    """A running `sglang.Engine` in fp32 with small steps and few slots; ended afterwards."""
    import sglang

    options = {
        "device": "cpu",
        "attention_backend": "torch_native",
        "disable_cuda_graph": True,
        "sampling_backend": "pytorch",
        "dtype": "float32",
        "mem_fraction_static": 0.1,
        "max_total_tokens": SLOTS,
        "max_running_requests": 8,
        "chunked_prefill_size": CHUNK,
        "log_level": "warning",
        **options,
    }
    engine = sglang.Engine(model_path=str(directory), **options)
    try:
        yield engine
    finally:
        engine.shutdown()


def ask(engine, cases: list[list[int]], logprobs: bool = False, **params) -> list[dict]:
    """SGLang's answers to prompts of token ids; greedy and to the end unless told."""
    params = {"temperature": 0.0, "max_new_tokens": NEW, "ignore_eos": True, **params}
    start = 0 if logprobs else -1
    return engine.generate(input_ids=cases, sampling_params=params, return_logprob=logprobs, logprob_start_len=start)


def assert_all_match(engine, num_streams: int, scheme: str, cases: list[list[int]]) -> list[dict]:
    """Greedy tokens equal brute force's, up to ties of which there may be few; returns the answers."""
    answers = ask(engine, cases)
    compared = 0
    for ids, answer in zip(cases, answers, strict=True):
        expected, gaps = expected_greedy(num_streams, scheme, tuple(ids))
        compared += assert_same_greedy(answer["output_ids"], expected, gaps, FP32_LOGITS)
        assert answer["meta_info"]["finish_reason"]["type"] == "length"
    assert compared > 0.9 * NEW * len(cases), "too many ties to mean anything"
    return answers
