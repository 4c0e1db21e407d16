"""The local engine on a GPU: equality with brute force, then speed and memory of an 8B shape beside the roofline.

One command does all of it: answers against brute force (`gpu_equality.py`), then for n = 1, 2, 4, 8 the decode step at
batch 1, 8, 32 and contexts of 256, 1K and 8K tokens where the KV fits, prompts of those lengths, and the device memory
with the extra tables on the device and on the host. Needs this package, torch >= 2.11 and transformers >= 5.17. On a
machine without CUDA the same code runs on a small shape and the record says that the GPU part is open. The record is
written after every cell. Exit code 1 when an answer is wrong.

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
sys.path[:0] = [str(ROOT), str(ROOT / "src"), str(ROOT / "benchmarks")]

from gpu_equality import equality_rows  # noqa: E402
from gpu_shared import SHAPE_8B, SHAPE_SMALL  # noqa: E402

from hidden_decoding import LocalEngine, SamplingParams  # noqa: E402
from hidden_decoding.bench.record import spread, write_record  # noqa: E402
from hidden_decoding.engines.local.kv_pool import bytes_per_token  # noqa: E402
from hidden_decoding.engines.local.weights import HostTable  # noqa: E402
from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig  # noqa: E402
from hidden_decoding.modeling.model import Qwen3ScaleSeqForCausalLM  # noqa: E402
from hidden_decoding.streams import tokens_to_positions  # noqa: E402

GREEDY = {"temperature": 0.0, "ignore_eos": True}
STEPS = 20
OPEN = "This machine has no CUDA device: speed, memory and kernels on a GPU are open. The figures are of a small shape."


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
            **({} if self.cuda else {"open": OPEN}),
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


def cells_of(bench: Bench, num_streams: int, rates: dict, contexts: list[int], batches: list[int]) -> None:
    """All cells of one n: the tables on the host first (its smallest cell only), then on the device."""
    longest = max(contexts) + 16 * STEPS
    for tables in ("host", "device") if num_streams > 1 else ("device",):
        before = torch.cuda.memory_allocated() if bench.cuda else 0
        model = bench.model(num_streams, tables, longest)
        taken = torch.cuda.memory_allocated() - before if bench.cuda else None
        bench.note("memory", {"streams": num_streams, "tables": tables, "model_device_bytes": taken})
        options = {"kv_cache_memory_bytes": None if bench.cuda else "64MiB", "kv_cache_fraction": 0.9}
        local = LocalEngine.from_model(
            model, max_num_seqs=max(batches), max_model_len=longest, enable_prefix_caching=False, **options
        )
        timing = Timing(bench, local, rates)
        cells = [(batch, context) for context in contexts for batch in batches]
        for batch, context in cells if tables == "device" else cells[:1]:
            timing.note("decode", tables, {"batch": batch, "context_tokens": context}, timing.decode)
        for context in contexts if tables == "device" else contexts[:1]:
            timing.note("prefill", tables, {"batch": 1, "context_tokens": context}, timing.prefill)
        del local, model, timing
        gc.collect()
        if bench.cuda:
            torch.cuda.empty_cache()


class Timing:
    """Cells of one engine, each with the least it can take: its bytes at full bandwidth or its FLOPs at full rate."""

    def __init__(self, bench: Bench, local: LocalEngine, rates: dict) -> None:
        self.bench, self.local, self.rates = bench, local, rates
        weights = local.model.named_parameters()
        # Weights of the layers that every position is multiplied with, and of the head, which only last streams are.
        self.layers = sum(w.numel() for name, w in weights if w.ndim == 2 and name.startswith("model.layers"))
        self.head = local.model.lm_head.weight.numel()
        config = local.model.config
        self.pair_flops = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim
        self.kv_bytes = bytes_per_token(config, bench.dtype)

    def note(self, part: str, tables: str, cell: dict, measure) -> None:
        """Measures a cell, or says why not."""
        cell = {"streams": self.local.num_streams, "tables": tables, **cell}
        needed = cell["batch"] * (cell["context_tokens"] + self.answer_tokens(**cell) + self.local.config.block_size)
        if needed > self.local.summary()["kv_cache_tokens"]:
            self.bench.note("left_out", {"part": part, **cell, "why": f"its KV does not fit ({needed} tokens)"})
        elif time.monotonic() > self.bench.deadline:
            self.bench.note("left_out", {"part": part, **cell, "why": "the time was up"})
        else:
            measured = measure(cell["batch"], cell["context_tokens"])
            self.bench.note(part, {**cell, "attention": self.local.summary()["attention"], **measured})

    def answer_tokens(self, batch: int, context_tokens: int, **_) -> int:
        """Tokens to ask for: the first request decodes while the last one's prompt is read."""
        return 2 * STEPS + batch * context_tokens // self.local.scheduler.max_step_tokens + 1

    def decode(self, batch: int, context: int) -> dict:
        """Median seconds of a whole engine step with `batch` requests at `context` tokens, and of the model in it."""
        local, bench = self.local, self.bench
        params = SamplingParams(max_tokens=self.answer_tokens(batch, context), **GREEDY)
        names = [local.add_request(prompt, params) for prompt in self._prompts(batch, context)]
        try:
            while any(request.waiting_tokens > 1 or request.answer_tokens == 0 for request in local._requests.values()):
                local.step()
            run, in_model = local.runner.run, []

            def timed_run(spans):
                results = []
                in_model.append(bench.seconds(lambda: results.extend(run(spans))))
                return results

            local.runner.run = timed_run
            steps = [bench.seconds(local.step) for _ in range(STEPS)]
            assert len(local._requests) == batch, "requests ended while they were measured"
            held = sum(len(request.token_ids) for request in local._requests.values())
        finally:
            del local.runner.__dict__["run"]
            for name in names:
                local.abort(name)
        # A step reads every layer's weights and the head once, and every row of KV once.
        read = (self.layers + self.head) * bench.dtype.itemsize + held * self.kv_bytes
        pairs = tokens_to_positions(1, local.num_streams) * tokens_to_positions(held, local.num_streams)
        flops = 2 * (tokens_to_positions(batch, local.num_streams) * self.layers + batch * self.head)
        return self._row(steps, read, flops + pairs * self.pair_flops, model_median=spread(in_model)["median"])

    def prefill(self, batch: int, context: int) -> dict:
        """Seconds to read a prompt of `context` tokens and give its first answer, three times."""
        params = SamplingParams(max_tokens=1, **GREEDY)
        prompts = self._prompts(batch, context)
        times = [self.bench.seconds(lambda: self.local.generate(prompts, params)) for _ in range(3)]
        positions = tokens_to_positions(context, self.local.num_streams)
        chunks = -(-context // self.local.scheduler.max_step_tokens)
        read = (chunks * self.layers + self.head) * self.bench.dtype.itemsize + context * self.kv_bytes
        flops = 2 * (positions * self.layers + self.head) + positions * positions / 2 * self.pair_flops
        return self._row(times, read, flops)

    def _prompts(self, batch: int, context: int) -> list[list[int]]:
        return torch.randint(3, self.local.model_config.vocab_size, (batch, context)).tolist()

    def _row(self, times: list[float], read: float, flops: float, **more) -> dict:
        floor = max(read / self.rates["bytes_per_second"], flops / self.rates["flop_per_second"])
        median = spread(times)["median"]
        figures = {"median": median, **more, "roofline_seconds": floor, "times_roofline": median / floor}
        return {**figures, "bytes_read": read, "flops": flops, "seconds": times}


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
        for row in equality_rows(bench.device):
            bench.note("equality", row)
        for num_streams in map(int, args.streams.split(",")):
            if time.monotonic() > bench.deadline:
                bench.note("left_out", {"streams": num_streams, "why": "the time was up"})
            else:
                cells_of(bench, num_streams, rates, contexts, batches)
    wrong = [row for row in bench.record["equality"] if row["wrong"] or row["blocks_lost"]]
    met = [row["times_roofline"] <= 1 / 0.85 for row in bench.record["decode"] + bench.record["prefill"]]
    print(
        f"{len(bench.record['equality'])} equality cases, {len(wrong)} wrong; "
        f"{sum(met)} of {len(met)} cells within 1/0.85 of their roofline"
    )
    if not bench.cuda:
        print(OPEN)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
