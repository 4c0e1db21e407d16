"""A training step at n = 1, 2, 4, 8 against stock Qwen3 at the same number of positions, in one run.

A step is forward, backward and AdamW over one packed row of the same number of positions for everybody: `--positions`
tokens of stock `Qwen3ForCausalLM` (transformers' own loss), and n times fewer tokens at n streams (our loss: the head
on last streams only, in chunks). On a CPU rounds alternate between the models, so that a noisy machine is noisy for
all; a GPU holds one model at a time, and what does not fit is named. Figures: seconds a step, positions and tokens a
second, each step's ratio to stock's in the same round, model FLOPs by `modeling.flops` as a share of the peak (a GPU's
data sheet; on a CPU the rate of a matrix product measured in the same run), and peak memory, each model alone in a
process of its own.

On a GPU: bfloat16 with float32 weights, the shapes of Qwen3 0.6B and 1.7B whole and 8 of the 36 layers of 8B (labelled
so). On a CPU: the shape bench-100m in float32.

    $ python benchmarks/training_speed.py --out benchmarks/records/training_speed.json
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from hidden_decoding import Qwen3ScaleSeqConfig, Qwen3ScaleSeqForCausalLM  # noqa: E402
from hidden_decoding.bench.record import BENCH_100M, spread, write_record  # noqa: E402
from hidden_decoding.modeling.flops import training_flops_per_token  # noqa: E402
from hidden_decoding.streams import whole_tokens  # noqa: E402
from hidden_decoding.train.loss import CausalLoss  # noqa: E402
from hidden_decoding.train.metrics import peak_memory_bytes, peak_tflops  # noqa: E402
from hidden_decoding.train.parallelize import compile_layers  # noqa: E402

HEADS = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}
GPU_SHAPES = {
    "Qwen3-0.6B": {**HEADS, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
                   "num_attention_heads": 16},
    "Qwen3-1.7B": {**HEADS, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
                   "num_attention_heads": 16},
    "Qwen3-8B, 8 of its 36 layers": {**HEADS, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 8,
                                     "num_attention_heads": 32},
}  # fmt: skip
STOCK = "stock"


class Trainee:
    """One model with its optimiser and a row to train on. `name` is "stock" or the number of streams."""

    def __init__(self, name: str, shape: dict, positions: int, device: torch.device, *, compiled: bool) -> None:
        self.streams = 1 if name == STOCK else int(name)
        self.tokens, self.device = whole_tokens(positions, self.streams), device
        rope = {"rope_type": "default", "rope_theta": 1e6}
        common = {**shape, "max_position_embeddings": positions, "rope_parameters": rope, "tie_word_embeddings": False}
        self.config = Qwen3ScaleSeqConfig(scale_seq_times=self.streams - 1, **common)
        torch.manual_seed(0)
        with torch.device(device):
            if name == STOCK:
                self.model = Qwen3ForCausalLM(Qwen3Config(**common))
                self.loss = self._stock_loss
            else:
                self.model = Qwen3ScaleSeqForCausalLM(self.config)
                module = CausalLoss(self.model, 2048)
                if compiled:
                    compile_layers(module)
                self.loss = lambda: module(self.ids, self.order, self.targets) / self.tokens
        if name == STOCK and compiled:
            for layer in self.model.model.layers:
                layer.compile()
        self.ids = torch.randint(shape["vocab_size"], (1, self.tokens), device=device)
        self.order = torch.arange(self.tokens, device=device)[None]
        self.targets = self.ids.roll(-1, dims=1)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)

    def _stock_loss(self) -> torch.Tensor:
        return self.model(input_ids=self.ids, labels=self.ids, use_cache=False).loss

    def step(self) -> float:
        """Seconds of one step, the device's part included."""
        self._wait()
        started = time.perf_counter()
        half = torch.autocast("cuda", dtype=torch.bfloat16) if self.device.type == "cuda" else contextlib.nullcontext()
        with half:
            loss = self.loss()
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def figures(self) -> tuple[int, float]:
        """Tokens and model FLOPs of one step."""
        return self.tokens, self.tokens * training_flops_per_token(self.config, self.tokens)


def matrix_rate(device: torch.device) -> float:
    """FLOP/s of a large float32 product: what a CPU can do at best."""
    a = torch.randn(2048, 2048, device=device)
    best = min(_timed(lambda: a @ a) for _ in range(5))
    return 2 * 2048**3 / best


def _timed(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(shape: dict, names: list[str], args: argparse.Namespace, device: torch.device) -> list[dict]:
    """All models of a shape, in alternating rounds."""
    taken: dict[str, list[float]] = {name: [] for name in names}
    about: dict[str, tuple[int, float]] = {}
    for group in [names] if device.type == "cpu" else [[name] for name in names]:
        try:
            trainees = {name: Trainee(name, shape, args.positions, device, compiled=args.compile) for name in group}
            for trainee in trainees.values():
                trainee.step()  # allocations, kernels, compilation
            for _ in range(args.rounds):
                for name, trainee in trainees.items():
                    taken[name].append(trainee.step())
        except torch.OutOfMemoryError:
            print(f"n = {group[0]} does not fit", flush=True)
            trainees = {}
        about |= {name: trainee.figures() for name, trainee in trainees.items()}
        del trainees
        gc.collect()
        torch.cuda.empty_cache()
    peak = 1e12 * (peak_tflops(device) or 0) or matrix_rate(device)
    rows = []
    for name, (tokens, flops) in about.items():
        best = spread(taken[name])["median"]
        rows.append(
            {
                "model": name,
                "tokens": tokens,
                "positions": args.positions,
                "seconds": spread(taken[name]),
                "positions_per_second": args.positions / best,
                "tokens_per_second": tokens / best,
                "positions_per_second_over_stock": spread(
                    [s / t for s, t in zip(taken[STOCK], taken[name], strict=True)]
                ),
                "model_flops": flops,
                "share_of_peak": flops / best / peak,
                "peak_flops": peak,
            }
        )
    return rows


def memory_of(name: str, shape: str, args: argparse.Namespace) -> int:
    """Peak bytes of two steps of one model, alone in a process."""
    line = [sys.executable, __file__, "--one", name, "--shape", shape, "--positions", str(args.positions)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--positions", type=int, default=4096 if torch.cuda.is_available() else 512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--compile", action="store_true", help="torch.compile of each layer, stock's too")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # peak memory of one model: for the process of its own
    parser.add_argument("--shape", help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shapes = GPU_SHAPES if device.type == "cuda" else {"bench-100m": BENCH_100M}
    if args.one:
        trainee = Trainee(args.one, shapes[args.shape], args.positions, device, compiled=False)
        trainee.step()
        trainee.step()
        print(peak_memory_bytes(device))
        return
    names = [STOCK, *map(str, args.streams)]
    record: dict = {
        "benchmark": "training_speed",
        "gpu": torch.cuda.get_device_name() if device.type == "cuda" else "open: this machine has no CUDA device",
        "compiled": args.compile,
        "shapes": [],
    }
    for label, shape in shapes.items():
        rows = measure(shape, names, args, device)
        for row in rows:
            row["peak_memory_bytes"] = memory_of(row["model"], label, args)
            print(label, json.dumps(row), flush=True)
        record["shapes"].append({"name": label, "shape": shape, "rows": rows})
        if args.out:
            write_record(args.out, record)


if __name__ == "__main__":
    main()
