"""The local engine against transformers' `generate()` on the shape bench-100m, all in one run.

For each n: whole requests (prompt 16 tokens, answer 32) through `generate()` one by one and as one batch of 8, through
the engine alone, 8 and 32 at once; the decode step at batch 1 and 8; prefill at the same number of positions.
transformers' continuous batching (`generate_batch`) is tried once per n; when it does not run, its reason is kept.
Everything else is repeated in turn, so that a slow minute of the machine hits all alike. Beside the steps stand two
floors measured in the same run: bytes read over memory bandwidth, and FLOPs over the rate of a large matrix product.

    $ python benchmarks/local_engine.py --out benchmarks/records/local_engine_bench100m.json
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import torch
from transformers import GenerationConfig

from hidden_decoding import LocalEngine, SamplingParams
from hidden_decoding.bench.record import BENCH_100M, spread, write_record
from hidden_decoding.engines.local.int8_linear import Int8Linear
from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig
from hidden_decoding.modeling.model import Qwen3ScaleSeqForCausalLM
from hidden_decoding.streams import positions_to_tokens, tokens_to_positions

PROMPT_TOKENS, ANSWER_TOKENS, TOGETHER, CROWD, PREFILL_POSITIONS = 16, 32, 8, 32, 1024
GREEDY = {"temperature": 0.0, "ignore_eos": True}


def seconds_of(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def machine_rates() -> dict[str, float]:
    """Bytes per second of streaming reads and FLOP/s of a large fp32 product, the best of five."""
    big = torch.ones(2**27)
    read = min(seconds_of(big.sum) for _ in range(5))
    a, b = torch.randn(1024, 2048), torch.randn(2048, 2048)
    product = min(seconds_of(lambda: a @ b) for _ in range(5))
    return {"bytes_per_second": big.numel() * 4 / read, "flop_per_second": 2 * 1024 * 2048 * 2048 / product}


class Case:
    """One n: the same weights behind `generate()` and behind the engine."""

    def __init__(self, num_streams: int, dtype: str = "float32", quantization: str = "none") -> None:
        self.n = num_streams
        torch.manual_seed(0)
        config = Qwen3ScaleSeqConfig(
            scale_seq_times=num_streams - 1,
            max_position_embeddings=tokens_to_positions(4096, num_streams),
            **BENCH_100M,
        )
        self.model = Qwen3ScaleSeqForCausalLM(config).eval().to(getattr(torch, dtype))
        # Attention is chosen in the configuration: one each.
        owned = self._copy(config, quantization)
        self.engine = LocalEngine.from_model(
            owned, kv_cache_memory_bytes="1GiB", enable_prefix_caching=False, pack_weights=quantization == "none"
        )
        # For one user alone (max_num_seqs 1) the engine chooses the layout of weights by n.
        alone = self._copy(config, quantization)
        packed = {"pack_weights": quantization == "none"}
        options = {"kv_cache_memory_bytes": "256MiB", "enable_prefix_caching": False, **packed}
        self.alone = LocalEngine.from_model(alone, max_num_seqs=1, **options)
        self.linear_parameters = sum(
            weight.numel() for name, weight in self.model.named_parameters() if weight.ndim == 2 and "embed" not in name
        )
        self.prompts = torch.randint(3, 4096, (CROWD, PROMPT_TOKENS)).tolist()

    def _copy(self, config: Qwen3ScaleSeqConfig, quantization: str) -> Qwen3ScaleSeqForCausalLM:
        """The same weights once more; with `int8` every linear layer but the head, as `serve --quantization int8`."""
        model = Qwen3ScaleSeqForCausalLM(copy.deepcopy(config)).eval().to(self.model.dtype)
        model.load_state_dict(self.model.state_dict())
        if quantization == "int8":
            for layer in model.model.layers.modules():
                for name, child in list(layer.named_children()):
                    if type(child) is torch.nn.Linear:
                        setattr(layer, name, Int8Linear(child))
        return model

    def generate(self, count: int = 1) -> None:
        """`count` whole requests through transformers, as one batch."""
        ids = torch.tensor(self.prompts[:count])
        self.model.generate(ids, max_new_tokens=ANSWER_TOKENS, min_new_tokens=ANSWER_TOKENS, do_sample=False)

    def answer(self, count: int) -> None:
        """`count` whole requests at once through the engine."""
        self.engine.generate(self.prompts[:count], SamplingParams(max_tokens=ANSWER_TOKENS, **GREEDY))

    def answer_alone(self) -> None:
        """One request through an engine set up for one at a time."""
        self.alone.generate(self.prompts[:1], SamplingParams(max_tokens=ANSWER_TOKENS, **GREEDY))

    def generate_batch(self) -> dict:
        """transformers' continuous batching over 8 requests: tokens per second, or why it does not run."""
        try:
            config = GenerationConfig(max_new_tokens=ANSWER_TOKENS, do_sample=False, eos_token_id=-1, pad_token_id=0)
            started = time.perf_counter()
            answers = self.model.generate_batch(self.prompts[:TOGETHER], generation_config=config)
            seconds = time.perf_counter() - started
            if errors := [answer.error for answer in answers.values() if answer.error]:
                return {"failed": errors[0]}
            tokens = sum(len(answer.generated_tokens) for answer in answers.values())
            return {"tokens": tokens, "tokens_per_second": tokens / seconds}
        except Exception as error:  # whatever it is, it is the result
            return {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
        finally:
            self.model.set_attn_implementation("sdpa")

    def decode_step(self, count: int, steps: int = 10) -> float:
        """Median seconds of a step in which `count` requests decode one token each."""
        for index in range(count):
            self.engine.add_request(self.prompts[index], SamplingParams(max_tokens=1000, **GREEDY), f"r{index}")
        self.engine.step()
        times = sorted(seconds_of(self.engine.step) for _ in range(steps))
        for index in range(count):
            self.engine.abort(f"r{index}")
        return times[steps // 2]

    def prefill(self) -> float:
        """Seconds to read a prompt of PREFILL_POSITIONS positions."""
        tokens = positions_to_tokens(PREFILL_POSITIONS, self.n)
        prompt = torch.randint(3, 4096, (tokens,)).tolist()
        return seconds_of(lambda: self.engine.generate([prompt], SamplingParams(max_tokens=1, **GREEDY)))

    def floors(self, rates: dict[str, float]) -> dict[str, float]:
        """Seconds below which no step can be: every weight read once, every product done once."""
        weights = self.linear_parameters * 4 / rates["bytes_per_second"]
        row = 2 * self.linear_parameters / rates["flop_per_second"]
        return {
            "decode_step_batch_1": max(weights, tokens_to_positions(1, self.n) * row),
            "decode_step_batch_8": max(weights, tokens_to_positions(TOGETHER, self.n) * row),
            "prefill": PREFILL_POSITIONS * row,
        }


def measure(cases: list[Case], rounds: int, only: set[str]) -> dict[int, dict[str, list[float]]]:
    """All measurements of all n, round by round."""
    jobs = {
        "generate_1": lambda case: seconds_of(case.generate),
        "generate_8": lambda case: seconds_of(lambda: case.generate(TOGETHER)),
        "engine_1_alone": lambda case: seconds_of(case.answer_alone),
        "engine_1": lambda case: seconds_of(lambda: case.answer(1)),
        "engine_8": lambda case: seconds_of(lambda: case.answer(TOGETHER)),
        "engine_32": lambda case: seconds_of(lambda: case.answer(CROWD)),
        "decode_step_batch_1": lambda case: case.decode_step(1),
        "decode_step_batch_8": lambda case: case.decode_step(TOGETHER),
        "prefill": lambda case: case.prefill(),
    }
    jobs = {name: job for name, job in jobs.items() if not only or name in only}
    times = {case.n: {name: [] for name in jobs} for case in cases}
    for round_number in range(rounds + 1):
        for name, job in jobs.items():
            for case in cases:
                seconds = job(case)
                if round_number:  # the first round warms up
                    times[case.n][name].append(seconds)
        print(f"round {round_number} of {rounds} done", flush=True)
    return times


def summarise(case: Case, times: dict[str, list[float]], first: dict[str, list[float]], rates) -> dict:
    """Figures of one n; ratios are medians of round-by-round ratios."""

    def ratio(above: list[float], below: list[float]) -> float:
        return spread([a / b for a, b in zip(above, below, strict=True)])["median"]

    requests = {
        "generate_1": 1,
        "generate_8": TOGETHER,
        "engine_1_alone": 1,
        "engine_1": 1,
        "engine_8": TOGETHER,
        "engine_32": CROWD,
    }
    answers = {name: count * ANSWER_TOKENS for name, count in requests.items()}
    floors = case.floors(rates)
    return {
        "streams": case.n,
        "seconds": {name: spread(values) for name, values in times.items()},
        "tokens_per_second": {name: tokens / spread(times[name])["median"] for name, tokens in answers.items()},
        "prefill_positions_per_second": PREFILL_POSITIONS / spread(times["prefill"])["median"],
        "floor_seconds": floors,
        "times_floor": {name: spread(times[name])["median"] / floor for name, floor in floors.items()},
        "engine_1_alone_over_generate": ratio(times["generate_1"], times["engine_1_alone"]),
        "engine_1_over_generate": ratio(times["generate_1"], times["engine_1"]),
        "engine_8_over_generate_batch_of_8": ratio(times["generate_8"], times["engine_8"]),
        "engine_8_over_generate_sequential": TOGETHER * ratio(times["generate_1"], times["engine_8"]),
        "decode_step_over_n1": ratio(times["decode_step_batch_1"], first["decode_step_batch_1"]),
        "prefill_positions_per_second_over_n1": ratio(first["prefill"], times["prefill"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", default="1,2,4,8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="names of measurements, with commas: just their seconds are kept")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--quantization", default="none", choices=["none", "int8"], help="of the engine; use --only")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cases = [Case(int(n), args.dtype, args.quantization) for n in args.streams.split(",")]
    before = machine_rates()
    settings = {"dtype": args.dtype, "quantization": args.quantization}
    only = set(filter(None, args.only.split(",")))
    times = measure(cases, args.rounds, only)
    if only:
        results = {n: {name: spread(values) for name, values in jobs.items()} for n, jobs in times.items()}
        for n, jobs in results.items():
            print(n, {name: f"{values['median']:.3f} s" for name, values in jobs.items()})
        if args.out:
            write_record(args.out, {**settings, "shape": BENCH_100M, "seconds": results, "rounds": times})
        return
    after = machine_rates()
    continuous = {case.n: case.generate_batch() for case in cases}
    rates = {name: max(before[name], after[name]) for name in before}
    results = [summarise(case, times[case.n], times[cases[0].n], rates) for case in cases]
    columns = "1/gen  8/gen 8/gen8  step/n1  prefill/n1  step x floor"
    print(f"\n{'n':>2} {'generate':>9} {'engine 1':>9} {'engine 8':>9} {'engine 32':>9}  {columns}")
    for row in results:
        speed = row["tokens_per_second"]
        print(
            f"{row['streams']:>2} {speed['generate_1']:9.1f} {speed['engine_1']:9.1f} {speed['engine_8']:9.1f}"
            f" {speed['engine_32']:9.1f}"
            f" {row['engine_1_over_generate']:6.2f} {row['engine_8_over_generate_sequential']:6.2f}"
            f" {row['engine_8_over_generate_batch_of_8']:6.2f}"
            f" {row['decode_step_over_n1']:8.2f} {row['prefill_positions_per_second_over_n1']:11.2f}"
            f" {row['times_floor']['decode_step_batch_1']:13.2f}"
        )
    print("generate_batch:", continuous)
    print("tokens per second; ratios are medians of round-by-round ratios")
    if args.out:
        write_record(
            args.out,
            {
                **settings,
                "shape": BENCH_100M,
                "prompt_tokens": PROMPT_TOKENS,
                "answer_tokens": ANSWER_TOKENS,
                "prefill_positions": PREFILL_POSITIONS,
                "rates": rates,
                "generate_batch": continuous,
                "results": results,
            },
        )


if __name__ == "__main__":
    main()
