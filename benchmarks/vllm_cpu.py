"""The local engine against vLLM with our plugin on a CPU, shape bench-100m, both in one process and by turns.

For each n: 1, 8 and 32 whole requests at once (prompt 16 tokens, answer 32), vLLM's decode step at batch 1, and its
prefill at the same number of positions, also of stock Qwen3 without our plugin's model. Each case is a process of its
own. Needs the environment of `make test-vllm`. vLLM runs eagerly unless `--compiled`, which is its default elsewhere.

    $ .venv-vllm/bin/python benchmarks/vllm_cpu.py --out benchmarks/records/vllm_cpu_bench100m.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMPT_TOKENS, ANSWER_TOKENS, PREFILL_POSITIONS = 16, 32, 1024
CONCURRENT = (1, 8, 32)
BLOCK_ROWS = 128  # vLLM's usual block on a CPU, in positions
STOCK = "stock"


def save_model(directory: Path, case: str) -> int:
    """Random weights of the shape, as `case` says: a number of streams, or stock Qwen3; returns n."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from hidden_decoding.bench.record import BENCH_100M
    from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig
    from hidden_decoding.modeling.model import Qwen3ScaleSeqForCausalLM
    from hidden_decoding.streams import tokens_to_positions

    torch.manual_seed(0)
    if case == STOCK:
        config = Qwen3Config(max_position_embeddings=2048, tie_word_embeddings=False, **BENCH_100M)
        Qwen3ForCausalLM(config).save_pretrained(directory)
        return 1
    n = int(case)
    config = Qwen3ScaleSeqConfig(
        scale_seq_times=n - 1, max_position_embeddings=tokens_to_positions(2048, n), **BENCH_100M
    )
    Qwen3ScaleSeqForCausalLM(config).save_pretrained(directory)
    return n


class Engines:
    """The same checkpoint behind vLLM and, unless it is stock Qwen3, behind the local engine."""

    def __init__(self, directory: Path, case: str, n: int, compiled: bool) -> None:
        import torch
        from vllm import LLM

        from hidden_decoding import LocalEngine
        from hidden_decoding.streams import positions_to_tokens

        torch.manual_seed(1)
        self.prompts = torch.randint(3, 4096, (max(CONCURRENT), PROMPT_TOKENS)).tolist()
        self.long_prompts = torch.randint(3, 4096, (64, positions_to_tokens(PREFILL_POSITIONS, n))).tolist()
        self.vllm = LLM(
            str(directory),
            skip_tokenizer_init=True,
            dtype="float32",
            enforce_eager=not compiled,
            enable_prefix_caching=False,
            block_size=positions_to_tokens(BLOCK_ROWS, n),
            max_model_len=1100,
            max_num_seqs=max(CONCURRENT),
            max_num_batched_tokens=1100,
        )
        self.local = None
        if case != STOCK:
            options = {"kv_cache_memory_bytes": "1GiB", "enable_prefix_caching": False}
            self.local = LocalEngine(directory, max_num_seqs=max(CONCURRENT), **options)

    def ask_vllm(self, prompts: list[list[int]], tokens: int) -> list[list[int]]:
        """Greedy answers of exactly `tokens` tokens from vLLM."""
        from vllm import SamplingParams

        params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        outputs = self.vllm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    def ask_local(self, prompts: list[list[int]], tokens: int) -> list[list[int]]:
        """The same from the local engine."""
        from hidden_decoding import SamplingParams

        params = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
        return [list(output.token_ids) for output in self.local.generate(prompts, params)]

    def seconds(self, ask, prompts: list[list[int]], tokens: int) -> float:
        """How long whole answers take."""
        started = time.perf_counter()
        answers = ask(prompts, tokens)
        seconds = time.perf_counter() - started
        assert [len(answer) for answer in answers] == [tokens] * len(prompts), "an answer is not whole"
        return seconds

    def round(self) -> dict[str, float]:
        """Seconds of everything once."""
        both = {"vllm": self.ask_vllm, **({"local": self.ask_local} if self.local is not None else {})}
        times = {}
        for count in CONCURRENT:
            for name, ask in both.items():
                times[f"{name}_{count}"] = self.seconds(ask, self.prompts[:count], ANSWER_TOKENS)
        for name, ask in both.items():
            long_prompt = [self.long_prompts.pop()]
            times[f"{name}_prefill"] = self.seconds(ask, long_prompt, 1)
            first = self.seconds(ask, self.prompts[:1], 1)
            times[f"{name}_decode_step"] = (times[f"{name}_1"] - first) / (ANSWER_TOKENS - 1)
        return times


def measure(case: str, rounds: int, compiled: bool) -> None:
    """The work of one process: prints its times as one JSON line."""
    with tempfile.TemporaryDirectory() as directory:
        engines = Engines(Path(directory), case, save_model(Path(directory), case), compiled)
        kept = [engines.round() for _ in range(rounds + 1)][1:]  # the first round warms up
    print(json.dumps({name: [times[name] for times in kept] for name in kept[0]}))


def measured(case: str, args: argparse.Namespace) -> dict[str, list[float]]:
    environment = {
        **os.environ,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(args.threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "KMP_BLOCKTIME": "0",
    }
    command = [sys.executable, __file__, "--case", case, "--rounds", str(args.rounds)]
    done = subprocess.run(
        [*command, *(["--compiled"] if args.compiled else [])],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def report(times: dict[str, dict[str, list[float]]]) -> dict:
    """Medians as tokens or positions per second, and the ratios that are asked for."""
    from statistics import median

    middle = {case: {name: median(values) for name, values in of.items()} for case, of in times.items()}
    results: dict = {"tokens_per_second": {}, "prefill_positions_per_second": {}, "decode_step_over_n1": {}}
    for case, of in middle.items():
        results["tokens_per_second"][case] = {
            f"{name}_{count}": count * ANSWER_TOKENS / of[f"{name}_{count}"]
            for name in ("local", "vllm")
            for count in CONCURRENT
            if f"{name}_{count}" in of
        }
        results["prefill_positions_per_second"][case] = {
            name: PREFILL_POSITIONS / of[f"{name}_prefill"] for name in ("local", "vllm") if f"{name}_prefill" in of
        }
        if "1" in middle and case != STOCK:
            results["decode_step_over_n1"][case] = of["vllm_decode_step"] / middle["1"]["vllm_decode_step"]
    if STOCK in middle:
        stock = middle[STOCK]["vllm_prefill"]
        results["vllm_prefill_rate_over_stock"] = {case: stock / of["vllm_prefill"] for case, of in middle.items()}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default=f"{STOCK},1,2,4,8")
    parser.add_argument("--case", help="measure this one in this process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.case:
        measure(args.case, args.rounds, args.compiled)
        return
    times = {}
    for case in args.cases.split(","):
        times[case] = measured(case, args)
        print(case, {name: f"{min(values):.3f} s" for name, values in times[case].items()}, flush=True)
    results = report(times)
    print(json.dumps(results, indent=1))
    if args.out:
        from hidden_decoding.bench.record import BENCH_100M, write_record

        about = {"prompt_tokens": PROMPT_TOKENS, "answer_tokens": ANSWER_TOKENS, "prefill_positions": PREFILL_POSITIONS}
        write_record(args.out, {"shape": BENCH_100M, **about, "compiled": args.compiled, **results, "seconds": times})


if __name__ == "__main__":
    main()
