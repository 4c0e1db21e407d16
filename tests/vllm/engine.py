"""Starting vLLM on tiny checkpoints, asking it, and holding its answers against brute force."""

from __future__ import annotations

import contextlib
import functools
import gc
import random

from tests.equivalence.tolerances import FP32_LOGITS
from tests.support import BruteForce, assert_same_greedy, tiny_model

SHAPE = {"head_dim": 32}  # the smallest that vLLM's CPU kernels take
CPU_BLOCK_ROWS = 32  # their blocks hold whole multiples of so many rows of KV
NEW = 16


@functools.cache
def model_of(num_streams: int, scheme: str = "contiguous"):
    return tiny_model(num_streams, scheme, **SHAPE)


@functools.cache
def reference(num_streams: int, scheme: str = "contiguous") -> BruteForce:
    return BruteForce(model_of(num_streams, scheme))


@functools.cache
def expected_greedy(num_streams: int, scheme: str, prompt: tuple[int, ...], tokens: int):
    return reference(num_streams, scheme).greedy(list(prompt), tokens)


def prompts(count: int, seed: int = 0, longest: int = 60) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(3, 512) for _ in range(rng.randint(1, longest))] for _ in range(count)]


@contextlib.contextmanager
def started(directory, num_streams: int, **options):
    """A running `vllm.LLM` in fp32, eager unless told, with blocks as small as the kernels allow; ended afterwards."""
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    options = {
        "dtype": "float32",
        "enforce_eager": True,
        "block_size": CPU_BLOCK_ROWS // num_streams,
        "max_model_len": 128,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 512,
        "disable_log_stats": False,
        "seed": 0,
        **options,
    }
    llm = LLM(str(directory), **options)
    try:
        yield llm
    finally:
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()


def ask(llm, cases: list[list[int]], **params) -> list:
    """vLLM's outputs for prompts of token ids; greedy and to the end unless told."""
    from vllm import SamplingParams

    params = {"temperature": 0.0, "max_tokens": NEW, "ignore_eos": True, **params}
    return llm.generate([{"prompt_token_ids": ids} for ids in cases], SamplingParams(**params), use_tqdm=False)


def tokens_of(output) -> list[int]:
    return list(output.outputs[0].token_ids)


def assert_all_match(llm, num_streams: int, scheme: str, cases: list[list[int]], **params) -> list:
    """Greedy tokens equal brute force's, up to ties of which there may be few; returns vLLM's outputs."""
    outputs = ask(llm, cases, **params)
    compared = 0
    for ids, output in zip(cases, outputs, strict=True):
        expected, gaps = expected_greedy(num_streams, scheme, tuple(ids), NEW)
        compared += assert_same_greedy(tokens_of(output), expected, gaps, FP32_LOGITS)
        assert output.outputs[0].finish_reason == "length"
    assert compared > 0.9 * NEW * len(cases), "too many ties to mean anything"
    return outputs


def counter(llm, name: str) -> int:
    """A counter of vLLM's metrics, so far."""
    return sum(int(metric.value) for metric in llm.get_metrics() if metric.name == f"vllm:{name}")


def live_model(llm):
    """The model the engine runs; it is in this process."""
    [model] = llm.apply_model(lambda model: model)
    return model


@contextlib.contextmanager
def recorded_steps(llm):
    """The positions that each forward's first layer reads, as lists, one per step."""
    steps: list[list[int]] = []
    layer = live_model(llm).model.layers[0]
    handle = layer.register_forward_pre_hook(lambda module, args: steps.append(args[0].tolist()))
    try:
        yield steps
    finally:
        handle.remove()
