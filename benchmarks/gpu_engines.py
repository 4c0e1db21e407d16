"""vLLM and SGLang with our plugins on a GPU: equality in bf16, then decode, prefill and KV memory beside the roofline.

CUDA graphs are on. Equality runs on tiny checkpoints against brute force, speed on the 8B shape with random weights
that the engine makes itself. Each n is a process of its own, in its engine's environment. Without CUDA the same code
runs on a small shape in fp32, eagerly, and the record says that the GPU part is open. Written after every row.

    $ .venv-vllm/bin/python benchmarks/gpu_engines.py --engine vllm --out benchmarks/records/gpu_vllm.json
    $ .venv-sglang/bin/python benchmarks/gpu_engines.py --engine sglang --out benchmarks/records/gpu_sglang.json
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

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]
ANSWER_TOKENS, REPEATS, ROW = 33, 3, "ROW "
EQUALITY_SHAPE = {"head_dim": 64}  # of the tiny checkpoints: what all kernels take
ENVIRONMENT = {
    "vllm": {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING",
    },
    "sglang": {},
}  # fmt: skip


class Vllm:
    """vLLM in this process."""

    def __init__(
        self, directory: Path, num_streams: int, *, cuda: bool, random_weights: bool, context: int, batch: int
    ):
        from vllm import LLM

        self.llm = LLM(
            str(directory),
            skip_tokenizer_init=True,
            load_format="dummy" if random_weights else "auto",
            dtype="bfloat16" if cuda else "float32",
            enforce_eager=not cuda,
            enable_prefix_caching=False,
            max_model_len=context,
            max_num_seqs=batch,
            **({} if cuda else {"block_size": 128 // num_streams, "max_num_batched_tokens": context}),
        )
        cache = self.llm.llm_engine.vllm_config.cache_config
        self.kv_tokens = cache.num_gpu_blocks * cache.block_size

    def answer(self, prompts: list[list[int]], tokens: int) -> list[list[int]]:
        """Greedy answers of exactly `tokens` tokens."""
        from vllm import SamplingParams

        params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        outputs = self.llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    def close(self) -> None:
        """Ends with its process."""


class Sglang:
    """SGLang's engine and its processes."""

    def __init__(
        self, directory: Path, _num_streams: int, *, cuda: bool, random_weights: bool, context: int, batch: int
    ):
        import sglang

        on_cpu = {
            "device": "cpu", "disable_cuda_graph": True, "sampling_backend": "pytorch", "mem_fraction_static": 0.1,
            "max_total_tokens": 2 * batch * context,
        }  # fmt: skip
        self.engine = sglang.Engine(
            model_path=str(directory),
            skip_tokenizer_init=True,
            load_format="dummy" if random_weights else "auto",
            dtype="bfloat16" if cuda else "float32",
            disable_radix_cache=True,
            context_length=context,
            max_running_requests=batch,
            log_level="warning",
            **({} if cuda else on_cpu),
        )
        self.kv_tokens = self.engine.get_server_info()["max_total_num_tokens"]

    def answer(self, prompts: list[list[int]], tokens: int) -> list[list[int]]:
        """Greedy answers of exactly `tokens` tokens."""
        params = {"temperature": 0.0, "max_new_tokens": tokens, "ignore_eos": True}
        return [answer["output_ids"] for answer in self.engine.generate(input_ids=prompts, sampling_params=params)]

    def close(self) -> None:
        """Ends its processes."""
        self.engine.shutdown()


ENGINES = {"vllm": Vllm, "sglang": Sglang}


def say(part: str, row: dict) -> None:
    """Hands a row to the parent process."""
    print(ROW + json.dumps([part, row]), flush=True)


def equality(engine: str, n: int, cuda: bool) -> None:
    """Mixed requests against brute force, up to the first tie of each."""
    from gpu_shared import BF16_TIE, EQUALITY_TOKENS, FP32_TIE, compared, equality_prompts

    from tests.support import BruteForce, save_tiny_checkpoint, tiny_model

    with tempfile.TemporaryDirectory() as folder:
        dtype = "bfloat16" if cuda else "float32"
        save_tiny_checkpoint(Path(folder), n, **EQUALITY_SHAPE)
        reference = BruteForce(tiny_model(n, **EQUALITY_SHAPE).to(getattr(__import__("torch"), dtype)).float())
        running = ENGINES[engine](Path(folder), n, cuda=cuda, random_weights=False, context=128, batch=8)
        prompts = equality_prompts(n)
        found = compared(reference, prompts, running.answer(prompts, EQUALITY_TOKENS), BF16_TIE if cuda else FP32_TIE)
        say("equality", {"dtype": dtype, "streams": n, **found})
        running.close()


def speed(engine: str, n: int, cuda: bool, rates: dict[str, float]) -> None:
    """Decode, prefill and KV capacity of one n."""
    import torch
    from gpu_shared import SHAPE_8B, SHAPE_SMALL, bytes_per_token

    from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig
    from hidden_decoding.streams import tokens_to_positions

    shape, size = (SHAPE_8B, 2) if cuda else (SHAPE_SMALL, 4)
    contexts, batches = ([256, 1024, 8192], [1, 8, 32]) if cuda else ([32, 64], [1, 4])
    longest = max(contexts) + ANSWER_TOKENS + 16
    with tempfile.TemporaryDirectory() as folder:
        Qwen3ScaleSeqConfig(
            scale_seq_times=n - 1, tie_word_embeddings=False, architectures=["Qwen3ScaleSeqForCausalLM"],
            max_position_embeddings=tokens_to_positions(longest, n), dtype="bfloat16" if cuda else "float32", **shape,
        ).save_pretrained(folder)  # fmt: skip
        free = torch.cuda.mem_get_info()[0] if cuda else None
        running = ENGINES[engine](Path(folder), n, cuda=cuda, random_weights=True, context=longest, batch=max(batches))
        per_token = bytes_per_token(shape, n, size)
        taken = free - torch.cuda.mem_get_info()[0] if cuda else None
        kv = {
            "kv_tokens": running.kv_tokens,
            "kv_bytes_per_token": per_token,
            "kv_bytes": running.kv_tokens * per_token,
        }
        say("memory", {"streams": n, **kv, "device_bytes_taken": taken})
        for batch in batches:
            for context in contexts:
                cell = {"streams": n, "batch": batch, "context_tokens": context}
                if batch * (context + ANSWER_TOKENS) > running.kv_tokens:
                    say("left_out", {**cell, "why": "its KV does not fit"})
                else:
                    say("decode", {**cell, **decode(running, shape, cell, rates, size)})
        say("prefill", {"streams": n, **prefill(running, shape, n, max(contexts), rates)})
        running.close()


def random_prompts(vocabulary: int, batch: int, tokens: int) -> list[list[int]]:
    import torch

    return torch.randint(3, vocabulary, (batch, tokens)).tolist()


def decode(running, shape: dict, cell: dict, rates: dict, size: int) -> dict:
    """Seconds of one decoding step: whole answers less answers of one token, over the steps between."""
    from gpu_shared import decode_floor, seconds, timed

    batch, context, times = cell["batch"], cell["context_tokens"], []
    for _ in range(REPEATS + 1):
        prompts = random_prompts(shape["vocab_size"], batch, context)
        first = seconds(lambda prompts=prompts: running.answer(prompts, 1))
        whole = seconds(lambda prompts=prompts: running.answer(prompts, ANSWER_TOKENS))
        times.append((whole - first) / (ANSWER_TOKENS - 1))
    row = timed(times[1:], decode_floor(shape, cell["streams"], batch, context, rates, size))
    return {**row, "tokens_per_second": batch / row["median"]}


def prefill(running, shape: dict, n: int, tokens: int, rates: dict) -> dict:
    """Seconds to read a prompt and answer one token; the roofline counts the layers' products."""
    from gpu_shared import prefill_floor, seconds, timed

    prompts = [random_prompts(shape["vocab_size"], 1, tokens) for _ in range(REPEATS + 1)]
    times = [seconds(lambda one=one: running.answer(one, 1)) for one in prompts]
    return {"tokens": tokens, **timed(times[1:], prefill_floor(shape, n, tokens, rates))}


def rows_of(args: argparse.Namespace, case: str, rates: dict | None, left: float):
    """Runs a case in its own process; yields its rows, and a last one when it did not end well."""
    command = [sys.executable, __file__, "--engine", args.engine, "--case", case, "--rates", json.dumps(rates)]
    environment = {**os.environ, **ENVIRONMENT[args.engine], "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT), str(ROOT / "benchmarks")])
    why = "the time was up"
    if left > 0:
        try:
            done = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, text=True, timeout=left, check=False
            )
            output, why = done.stdout, f"its process ended with {done.returncode}"
            ended = done.returncode == 0
        except subprocess.TimeoutExpired as late:
            output, ended = (late.stdout or b"").decode(), False
        yield from (json.loads(line.removeprefix(ROW)) for line in output.splitlines() if line.startswith(ROW))
        if ended:
            return
    yield "left_out", {"case": case, "why": why}


def run_case(args: argparse.Namespace) -> None:
    """The work of one process."""
    import torch
    from gpu_shared import measured_rates

    cuda = torch.cuda.is_available()
    kind, _, n = args.case.partition(":")
    if kind == "rates":
        name = torch.cuda.get_device_name() if cuda else "open: no GPU has run this"
        say("rates", {"gpu": name, **measured_rates(torch.bfloat16 if cuda else torch.float32)})
    elif kind == "equality":
        equality(args.engine, int(n), cuda)
    else:
        speed(args.engine, int(n), cuda, json.loads(args.rates))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=ENGINES, required=True)
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--streams", default="1,2,4,8")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--rates", default="null", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        run_case(args)
        return
    from gpu_shared import PUBLISHED

    from hidden_decoding.bench.record import write_record

    deadline = time.monotonic() + 60 * args.minutes
    record: dict = {"benchmark": f"gpu_{args.engine}", "published": PUBLISHED, "rates": [], "equality": []}
    record |= {"decode": [], "prefill": [], "memory": [], "left_out": []}
    streams = args.streams.split(",")
    for case in ["rates", *(f"equality:{n}" for n in streams), *(f"speed:{n}" for n in streams)]:
        rates = record["rates"][0] if record["rates"] else None
        for part, row in rows_of(args, case, rates, deadline - time.monotonic()):
            record[part].append(row)
            print(part, row, flush=True)
            if args.out:
                write_record(args.out, record)
    print(f"published for comparison, not as a target: {PUBLISHED}")
    sys.exit(1 if not record["equality"] or any(row["wrong"] for row in record["equality"]) else 0)


if __name__ == "__main__":
    main()
