"""Starting vLLM on tiny checkpoints, asking it, and holding its answers against brute force."""

from __future__ import annotations

import contextlib
import functools
import gc

from vllm.exceptions import VLLMValidationError

from tests import engine_suite
from tests.engine_suite import CHUNK, NEW, RUNNING, Answer, Engine
from tests.equivalence.tolerances import FP32_LOGITS
from tests.support import assert_same_greedy, tiny_model

SHAPE = {"head_dim": 32}  # the smallest that vLLM's CPU kernels take
CPU_BLOCK_ROWS = 32  # their blocks hold whole multiples of so many rows of KV


@functools.cache
def model_of(num_streams: int, scheme: str = "contiguous"):
    return tiny_model(num_streams, scheme, **SHAPE)


def reference(num_streams: int, scheme: str = "contiguous"):
    return engine_suite.reference(num_streams, scheme, **SHAPE)


def expected_greedy(num_streams: int, scheme: str, prompt: tuple[int, ...], tokens: int):
    return engine_suite.expected_greedy(num_streams, scheme, SHAPE["head_dim"], prompt, tokens)


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


class Vllm(Engine):
    """For the suite of all engines: vLLM in steps of 13 tokens, with a cache for little more than one request."""

    head_dim = SHAPE["head_dim"]
    too_long = VLLMValidationError

    def __init__(self, llm, num_streams: int, scheme: str) -> None:
        super().__init__(num_streams, scheme)
        self.llm, self.block = llm, CPU_BLOCK_ROWS // num_streams

    def ask(self, cases, *, tokens=NEW, scored=False, **penalties):
        logprobs = {"prompt_logprobs": 0, "logprobs": 0} if scored else {}
        answers = []
        for ids, output in zip(cases, ask(self.llm, cases, max_tokens=tokens, **logprobs, **penalties), strict=True):
            answer = Answer(tokens_of(output), output.outputs[0].finish_reason, output.num_cached_tokens)
            if scored:
                entries, text = [*output.prompt_logprobs[1:], *output.outputs[0].logprobs], ids + answer.token_ids
                answer.scored = [(token, entry[token].logprob) for token, entry in zip(text[1:], entries, strict=True)]
            answers.append(answer)
        return answers

    def preempted(self):
        return counter(self.llm, "num_preemptions")

    def steps(self):
        return recorded_steps(self.llm)


@contextlib.contextmanager
def tight(directory, num_streams: int, scheme: str):
    """The suite's engine."""
    blocks = 160 * num_streams // CPU_BLOCK_ROWS + 2
    options = {"max_num_batched_tokens": CHUNK, "max_num_seqs": RUNNING, "num_gpu_blocks_override": blocks}
    with started(directory, num_streams, **options) as llm:
        yield Vllm(llm, num_streams, scheme)
