"""Does `inspect --plan` foretell what an engine takes? Predicted against measured bytes of real processes on a CPU.

A process starts the engine on a tiny model first, so that libraries and threads are there, then on bench-100m with a KV
cache of a given size, every page of which is written, and answers a few requests. Measured is the growth of its
anonymous memory; predicted are the plan's weights and KV of as many tokens as the engine says it holds.

    $ python benchmarks/memory_plan.py --engine local --out benchmarks/records/memory_plan_local.json
    $ .venv-vllm/bin/python benchmarks/memory_plan.py --engine vllm --out benchmarks/records/memory_plan_vllm.json
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "src")]

KV_BYTES, BLOCK_ROWS, CONTEXT_TOKENS = 512 * 2**20, 128, 512
TINY = {"num_hidden_layers": 1, "hidden_size": 128, "intermediate_size": 128}
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
}  # fmt: skip


def anonymous_bytes() -> int:
    """Memory of this process that is no file's; what the allocator only keeps for later is given back first."""
    from hidden_decoding.bench.memory import resident_bytes

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return resident_bytes().anonymous


def save_model(directory: str, num_streams: int, **changes: int) -> None:
    """Random weights of the shape; the rest of the process keeps nothing of them."""
    script = (
        "import sys, json, torch\n"
        "from hidden_decoding import Qwen3ScaleSeqConfig, Qwen3ScaleSeqForCausalLM\n"
        "Qwen3ScaleSeqForCausalLM(Qwen3ScaleSeqConfig(**json.loads(sys.argv[2]))).save_pretrained(sys.argv[1])\n"
    )
    from hidden_decoding.bench.record import BENCH_100M
    from hidden_decoding.streams import scale_seq_times_of, tokens_to_positions

    fields = {
        **BENCH_100M,
        **changes,
        "scale_seq_times": scale_seq_times_of(num_streams),
        "max_position_embeddings": tokens_to_positions(CONTEXT_TOKENS, num_streams),
        "tie_word_embeddings": False,
    }
    subprocess.run([sys.executable, "-c", script, directory, json.dumps(fields)], check=True)


def run_local(directory: str, _num_streams: int, kv_bytes: int) -> tuple[object, int]:
    """(the engine, tokens its KV cache holds), every page of it written."""
    from hidden_decoding import LocalEngine, SamplingParams

    engine = LocalEngine(directory, kv_cache_memory_bytes=str(kv_bytes), stream_tables="device", max_num_seqs=64)
    for cache in (engine.runner.pool.keys_LKPE, engine.runner.pool.values_LKPE):
        cache.fill_(0)
    engine.generate([[5, 6, 7]] * 4, SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True))
    return engine, engine.pool.num_blocks * engine.pool.block_size


def run_vllm(directory: str, num_streams: int, kv_bytes: int) -> tuple[object, int]:
    """The same for vLLM."""
    from vllm import LLM, SamplingParams

    from hidden_decoding.streams import positions_to_tokens

    llm = LLM(
        directory,
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=True,
        block_size=positions_to_tokens(BLOCK_ROWS, num_streams),
        max_model_len=CONTEXT_TOKENS,
        kv_cache_memory_bytes=kv_bytes,
    )
    config = llm.llm_engine.vllm_config
    for layer in config.compilation_config.static_forward_context.values():
        layer.kv_cache.fill_(0)
    params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True, detokenize=False)
    llm.generate([{"prompt_token_ids": [5, 6, 7]}] * 4, params, use_tqdm=False)
    return llm, config.cache_config.num_gpu_blocks * config.cache_config.block_size


def measure(engine: str, num_streams: int, kv_bytes: int) -> dict:
    """The work of one process."""
    from hidden_decoding.modeling.inspection import inspect_checkpoint
    from hidden_decoding.modeling.memory_plan import GIB, MemoryPlanConfig, plan_memory

    run = {"local": run_local, "vllm": run_vllm}[engine]
    with tempfile.TemporaryDirectory() as tiny, tempfile.TemporaryDirectory() as directory:
        save_model(tiny, num_streams, **TINY)
        save_model(directory, num_streams)
        first = run(tiny, num_streams, 16 * 2**20)
        before = anonymous_bytes()
        second, tokens = run(directory, num_streams, kv_bytes)
        measured = anonymous_bytes() - before
        found = inspect_checkpoint(directory)
        plan = plan_memory(found, MemoryPlanConfig(gpu_memory=(found.weight_bytes + kv_bytes) / GIB / 0.9))
        del first, second
    predicted = plan.weight_bytes_per_gpu + tokens * plan.kv_bytes_per_token_per_gpu
    return {
        "streams": num_streams, "weight_bytes": plan.weight_bytes_per_gpu, "kv_tokens_planned": plan.tokens,
        "kv_tokens": tokens, "predicted_bytes": predicted, "measured_bytes": measured,
        "measured_over_predicted": round(measured / predicted, 4),
    }  # fmt: skip


def measured_in_process(engine: str, num_streams: int, kv_bytes: int = KV_BYTES) -> dict:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--engine", engine, "--case", str(num_streams), "--kv-bytes", str(kv_bytes)]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": sys.path[0]}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("local", "vllm"), required=True)
    parser.add_argument("--streams", default="1,4,8")
    parser.add_argument("--kv-bytes", type=int, default=KV_BYTES)
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args.engine, args.case, args.kv_bytes)))
        return
    rows = []
    for num_streams in map(int, args.streams.split(",")):
        rows.append(measured_in_process(args.engine, num_streams, args.kv_bytes))
        print(rows[-1], flush=True)
    if args.out:
        from hidden_decoding.bench.record import BENCH_100M, write_record

        write_record(args.out, {"benchmark": "memory_plan", "engine": args.engine, "shape": BENCH_100M, "rows": rows})


if __name__ == "__main__":
    main()
