"""What the GPU benchmarks of all engines share: shapes, the device's measured rates, rooflines, equality.

Contract: floors are the larger of reading all bytes and doing all products once, at rates measured on this device.
`gpu_engines.py` uses all of it, `gpu_local_engine.py` the shapes.
"""

from __future__ import annotations

import time

import torch

from hidden_decoding.streams import kv_bytes_per_token, tokens_to_positions

SHAPE_8B = {
    "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
}  # fmt: skip
SHAPE_SMALL = {
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
}  # fmt: skip
# A bf16 logit of size 4 is rounded to 1/64; layers add a few such errors.
BF16_TIE, FP32_TIE = 0.25, 1e-3
EQUALITY_TOKENS = 16
# What the method's authors report (arXiv 2607.08186): another model on other hardware. Printed beside, not aimed at.
PUBLISHED = {
    "what": "decode throughput at n = 4 over n = 1 of an 80B-A3B MoE on 8 H20, batch 1 / 8 / 32: another model's",
    "short context": {1: 0.88, 8: 0.70, 32: 0.61},
    "32K context": {1: 0.83, 8: 0.47, 32: 0.27},
}


def wait() -> None:
    """Until the device has done all it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(work) -> float:
    """Seconds of `work`, the device's part included."""
    wait()
    started = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - started


def measured_rates(dtype: torch.dtype) -> dict[str, float]:
    """Bytes per second of streaming reads, FLOP/s of a large product in the model's dtype: the best of ten."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    big = torch.ones(2**30 if cuda else 2**26, dtype=torch.float32, device=device)
    read = min(seconds(big.sum) for _ in range(10))
    size = 8192 if cuda else 1024
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    product = min(seconds(lambda: a @ b) for _ in range(10))
    return {"bytes_per_second": big.numel() * 4 / read, "flop_per_second": 2 * size**3 / product}


def layer_parameters(shape: dict[str, int]) -> int:
    """Weights of the layers that every position is multiplied with."""
    width, head = shape["hidden_size"], shape["head_dim"]
    queries, keys = shape["num_attention_heads"] * head, 2 * shape["num_key_value_heads"] * head
    attention = width * (queries + keys) + queries * width
    return shape["num_hidden_layers"] * (attention + 3 * width * shape["intermediate_size"])


def bytes_per_token(shape: dict[str, int], num_streams: int, element_bytes: int) -> int:
    """K and V of one token."""
    sizes = (shape["num_hidden_layers"], shape["num_key_value_heads"], shape["head_dim"])
    return kv_bytes_per_token(num_streams, *sizes, element_bytes)


def decode_floor(
    shape: dict[str, int], num_streams: int, batch: int, context: int, rates: dict[str, float], element_bytes: int
) -> float:
    """Seconds that a decoding step cannot be under: layers and head read once, all rows of KV read once."""
    layers, head = layer_parameters(shape), shape["vocab_size"] * shape["hidden_size"]
    read = (layers + head) * element_bytes + batch * context * bytes_per_token(shape, num_streams, element_bytes)
    rows = tokens_to_positions(batch, num_streams)
    scores = 4 * shape["num_hidden_layers"] * shape["num_attention_heads"] * shape["head_dim"]
    attention = rows * tokens_to_positions(context, num_streams) * scores
    flops = 2 * (rows * layers + batch * head) + attention
    return max(read / rates["bytes_per_second"], flops / rates["flop_per_second"])


def prefill_floor(shape: dict[str, int], num_streams: int, tokens: int, rates: dict[str, float]) -> float:
    """Seconds that reading a prompt cannot be under, by the layers' products."""
    return 2 * tokens_to_positions(tokens, num_streams) * layer_parameters(shape) / rates["flop_per_second"]


def timed(times: list[float], floor: float) -> dict:
    """A row's figures."""
    times = sorted(times)
    median = times[len(times) // 2]
    return {"seconds": times, "median": median, "roofline_seconds": floor, "times_roofline": median / floor}


def equality_prompts(num_streams: int) -> list[list[int]]:
    """Eight prompts of mixed lengths."""
    torch.manual_seed(num_streams)
    return [torch.randint(3, 512, (length,)).tolist() for length in (1, 3, 9, 17, 30, 44, 8, 21)]


def compared(reference, prompts: list[list[int]], answers: list[list[int]], tie: float) -> dict:
    """How many tokens of greedy answers equal brute force's, each answer up to its first tie."""
    count, wrong = 0, 0
    for prompt, answer in zip(prompts, answers, strict=True):
        expected, gaps = reference.greedy(prompt, EQUALITY_TOKENS)
        for got, want, gap in zip(answer, expected, gaps, strict=True):
            if gap <= tie:
                break
            count += 1
            if got != want:
                wrong += 1
                break
    return {"tie_gap": tie, "tokens_compared": count, "of": EQUALITY_TOKENS * len(prompts), "wrong": wrong}
