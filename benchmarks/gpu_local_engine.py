"""The local engine on a GPU: equality with brute force, then speed and memory of an 8B shape beside the roofline.

Needs this package, torch >= 2.11 and transformers >= 5.17. On a machine without CUDA the same code runs on a small
shape and the record says that the GPU part is open. The record is written after every cell.

    $ python benchmarks/gpu_local_engine.py --minutes 25 --out benchmarks/records/gpu_local_engine.json
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from hidden_decoding import LocalEngine, SamplingParams  # noqa: E402
from hidden_decoding.bench.record import write_record  # noqa: E402
from hidden_decoding.engines.local.kv_pool import bytes_per_token  # noqa: E402
from hidden_decoding.engines.local.weights import HostTable  # noqa: E402
from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig  # noqa: E402
from hidden_decoding.modeling.model import Qwen3ScaleSeqForCausalLM  # noqa: E402
from hidden_decoding.streams import tokens_to_positions  # noqa: E402

SHAPE_8B = {
    "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
}  # fmt: skip
SHAPE_SMALL = {
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
}  # fmt: skip
GREEDY = {"temperature": 0.0, "ignore_eos": True}
STEPS, PREFILL_TOKENS = 20, 1024
# A bf16 logit of size 4 is rounded to 1/64; layers add a few such errors.
BF16_TIE, FP32_TIE = 0.25, 1e-3


class Bench:
    """The device, the shape, the clock and the record."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.cuda = torch.cuda.is_available()
        self.device = torch.device("cuda" if self.cuda else "cpu")
        self.dtype = torch.bfloat16 if self.cuda else torch.float32
        self.shape = SHAPE_8B if self.cuda else SHAPE_SMALL
        self.deadline, self.out = time.monotonic() + 60 * args.minutes, args.out
        self.record: dict = {
            "benchmark": "gpu_local_engine",
            "gpu": torch.cuda.get_device_name() if self.cuda else "open",
            "shape": self.shape,
            "dtype": str(self.dtype).removeprefix("torch."),
            "equality": [], "decode": [], "prefill": [], "memory": [], "left_out": [],
        }  # fmt: skip

    def note(self, part: str, row: dict) -> None:
        """Adds a row and saves what there is."""
        self.record[part].append(row)
        print(part, row, flush=True)
        if self.out:
            write_record(self.out, self.record)

    def seconds(self, work) -> float:
        """Seconds of `work`, the device's part included."""
        self.wait()
        started = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - started

    def wait(self) -> None:
        """Until the device has done all it was given."""
        if self.cuda:
            torch.cuda.synchronize()

    def rates(self) -> dict[str, float]:
        """Bytes per second of streaming reads, FLOP/s of a large product in the model's dtype: the best of ten."""
        big = torch.ones(2**30 if self.cuda else 2**26, dtype=torch.float32, device=self.device)
        read = min(self.seconds(big.sum) for _ in range(10))
        size = 8192 if self.cuda else 1024
        a, b = torch.randn(2, size, size, device=self.device, dtype=self.dtype)
        product = min(self.seconds(lambda: a @ b) for _ in range(10))
        return {"bytes_per_second": big.numel() * 4 / read, "flop_per_second": 2 * size**3 / product}

    def model(self, num_streams: int, tables: str, context_tokens: int) -> Qwen3ScaleSeqForCausalLM:
        """Random weights made where they stay; with `host` the extra tables lie in host memory."""
        config = Qwen3ScaleSeqConfig(
            scale_seq_times=num_streams - 1, tie_word_embeddings=False,
            max_position_embeddings=tokens_to_positions(context_tokens, num_streams), **self.shape,
        )  # fmt: skip
        with torch.device("meta"):
            model = Qwen3ScaleSeqForCausalLM(config).to(self.dtype)
        extra = model.model.scale_seq_embed_tokens_list
        if tables == "host":
            for index in range(len(extra)):
                rows_VD = torch.empty(config.vocab_size, config.hidden_size, dtype=self.dtype, pin_memory=self.cuda)
                extra[index] = HostTable(rows_VD.normal_(0, 0.02), self.dtype, self.device)
        model.to_empty(device=self.device)
        for weight in model.parameters():
            weight.data.fill_(1.0) if weight.ndim == 1 else weight.data.normal_(0, 0.02)
        model.model.rotary_emb = type(model.model.rotary_emb)(config).to(self.device)
        return model.eval()


def equality(bench: Bench) -> None:
    """Mixed requests through the engine against brute force in fp32, up to the first tie; both dtypes."""
    from tests.support import BruteForce, tiny_model

    for dtype, tie in ((torch.float32, FP32_TIE), (torch.bfloat16, BF16_TIE)):
        for n in (1, 2, 4, 8):
            reference = BruteForce(tiny_model(n).to(dtype).float())
            local = LocalEngine.from_model(
                tiny_model(n).to(bench.device, dtype), kv_cache_memory_bytes="64MiB", max_num_batched_tokens=13,
                block_size=5, max_num_seqs=5,
            )  # fmt: skip
            torch.manual_seed(n)
            prompts = [torch.randint(3, 512, (length,)).tolist() for length in (1, 3, 9, 17, 30, 44, 8, 21)]
            answers = local.generate(prompts, SamplingParams(max_tokens=16, **GREEDY))
            compared, wrong = 0, 0
            for prompt, answer in zip(prompts, answers, strict=True):
                expected, gaps = reference.greedy(prompt, 16)
                for got, want, gap in zip(answer.token_ids, expected, gaps, strict=True):
                    if gap <= tie:
                        break
                    compared += 1
                    if got != want:
                        wrong += 1
                        break
            total = 16 * len(prompts)
            bench.note("equality", {
                "dtype": str(dtype), "streams": n, "tie_gap": tie,
                "tokens_compared": compared, "of": total, "wrong": wrong,
            })  # fmt: skip


def speed(bench: Bench, num_streams: int, rates: dict[str, float], contexts: list[int], batches: list[int]) -> None:
    """Decode and prefill of one n, and the memory it takes with tables on the device and on the host."""
    longest = max(contexts) + 4 * STEPS
    for tables in ("host", "device") if num_streams > 1 else ("device",):
        before = torch.cuda.memory_allocated() if bench.cuda else 0
        model = bench.model(num_streams, tables, longest)
        taken = torch.cuda.memory_allocated() - before if bench.cuda else None
        bench.note("memory", {"streams": num_streams, "tables": tables, "model_device_bytes": taken})
        row_bytes = bytes_per_token(model.config, bench.dtype)
        options = {"kv_cache_memory_bytes": None if bench.cuda else "64MiB", "kv_cache_fraction": 0.8}
        local = LocalEngine.from_model(
            model, max_num_seqs=max(batches), max_model_len=longest, enable_prefix_caching=False, **options
        )
        cells = [(batch, context) for batch in batches for context in contexts]
        for batch, context in cells if tables == "device" else cells[:1]:
            cell = {"streams": num_streams, "tables": tables, "batch": batch, "context_tokens": context}
            if batch * (context + 2 * STEPS + 16) > local.summary()["kv_cache_tokens"]:
                bench.note("left_out", {**cell, "why": "its KV does not fit"})
            elif time.monotonic() > bench.deadline:
                bench.note("left_out", {**cell, "why": "the time was up"})
            else:
                bench.note("decode", {**cell, **decode(bench, local, batch, context, rates, row_bytes)})
        if tables == "device" and time.monotonic() < bench.deadline:
            bench.note("prefill", {"streams": num_streams, **prefill(bench, local, rates)})
        del local, model
        gc.collect()
        if bench.cuda:
            torch.cuda.empty_cache()


def linear_parameters(model: Qwen3ScaleSeqForCausalLM) -> int:
    """Weights of the layers that every position is multiplied with."""
    return sum(w.numel() for name, w in model.named_parameters() if w.ndim == 2 and name.startswith("model.layers"))


def decode(bench: Bench, local: LocalEngine, batch: int, context: int, rates: dict, row_bytes: int) -> dict:
    """Median seconds of a whole engine step with `batch` requests at `context` tokens, and its roofline."""
    vocabulary = local.model_config.vocab_size
    params = SamplingParams(max_tokens=2 * STEPS, **GREEDY)
    names = [local.add_request(torch.randint(3, vocabulary, (context,)).tolist(), params) for _ in range(batch)]
    try:
        while any(request.waiting_tokens > 1 or request.answer_tokens == 0 for request in local._requests.values()):
            local.step()
        times = sorted(bench.seconds(local.step) for _ in range(STEPS // 2 if not bench.cuda else STEPS))
    finally:
        for name in names:
            local.abort(name)
    # A step reads every layer's weights and the head once, and every row of KV once.
    model, size = local.model, bench.dtype.itemsize
    head = model.lm_head.weight.numel()
    read = (linear_parameters(model) + head) * size + batch * context * row_bytes
    rows = tokens_to_positions(batch, local.num_streams)
    config = model.config
    scores = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim
    attention = rows * tokens_to_positions(context, local.num_streams) * scores
    flops = 2 * (rows * linear_parameters(model) + batch * head) + attention
    floor = max(read / rates["bytes_per_second"], flops / rates["flop_per_second"])
    median = times[len(times) // 2]
    return {"seconds": times, "median": median, "roofline_seconds": floor, "times_roofline": median / floor}


def prefill(bench: Bench, local: LocalEngine, rates: dict) -> dict:
    """Seconds to read a prompt, the best of three; the roofline counts the layers' products."""
    tokens = min(PREFILL_TOKENS, local.max_model_len - 2)
    prompt = torch.randint(3, local.model_config.vocab_size, (tokens,)).tolist()
    params = SamplingParams(max_tokens=1, **GREEDY)
    times = sorted(bench.seconds(lambda: local.generate([prompt], params)) for _ in range(3))
    positions = tokens_to_positions(tokens, local.num_streams)
    floor = 2 * positions * linear_parameters(local.model) / rates["flop_per_second"]
    return {"tokens": tokens, "seconds": times, "roofline_seconds": floor, "times_roofline": times[0] / floor}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--streams", default="1,2,4,8")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    bench = Bench(args)
    contexts = [256, 1024, 8192] if bench.cuda else [32, 64]
    batches = [1, 8, 32] if bench.cuda else [1, 4]
    with torch.inference_mode():
        rates = bench.record["rates"] = bench.rates()
        print(rates)
        equality(bench)
        for num_streams in map(int, args.streams.split(",")):
            if time.monotonic() > bench.deadline:
                bench.note("left_out", {"streams": num_streams, "why": "the time was up"})
            else:
                speed(bench, num_streams, rates, contexts, batches)
    sys.exit(1 if any(row["wrong"] for row in bench.record["equality"]) else 0)


if __name__ == "__main__":
    main()
