"""Resident memory of n = 1 and n = 8 with one backbone, before the first request and after a thousand.

The tables of streams 2..n stay in the file (`stream_tables=mmap`); a token touches one row of each. Memory is split
into anonymous (must stay) and file-backed (pages of the checkpoint that were read; the system may drop them at any
time). Each n runs in a process of its own with the same dtype and bytes of KV. Prompts are token ids by Zipf's law, as
words of a text are; answers are greedy. Anonymous memory grows while KV slots are used for the first time, by at most
the KV budget and what a step computes with; file-backed memory by the rows that were read and their neighbours on the
same pages. Exit code 1 when n = 8 needs more than 10% above n = 1 before the first request. Linux only.

    $ python benchmarks/memory_after_requests.py --out benchmarks/records/memory_after_requests.json
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from itertools import accumulate
from pathlib import Path

from hidden_decoding.bench.memory import Resident, resident_bytes
from hidden_decoding.bench.record import write_record

SHAPE = {
    "vocab_size": 32768,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "tie_word_embeddings": False,
}
CONTEXT_TOKENS, PROMPT_TOKENS, ANSWER_TOKENS = 256, 16, 8
KV_BYTES = "256MiB"
ALLOWED = 1.10


def make_checkpoint(directory: Path, num_streams: int) -> None:
    """Random weights; the backbone's do not depend on n."""
    import torch

    from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig
    from hidden_decoding.modeling.model import Qwen3ScaleSeqForCausalLM
    from hidden_decoding.streams import tokens_to_positions

    config = Qwen3ScaleSeqConfig(
        scale_seq_times=num_streams - 1,
        max_position_embeddings=tokens_to_positions(CONTEXT_TOKENS, num_streams),
        dtype="float32",
        **SHAPE,
    )
    model = Qwen3ScaleSeqForCausalLM(config)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters(), key=lambda item: "scale_seq" in item[0]):
            if weight.ndim == 2:
                weight.normal_(std=0.02, generator=torch.Generator().manual_seed(sum(name.encode())))
    model.save_pretrained(directory)


def prompts(count: int, seed: int) -> list[list[int]]:
    """Token ids by rank: the r-th most frequent one comes with weight 1 / r. Ranks are spread over the table."""
    rng = random.Random(seed)
    ids = list(range(3, SHAPE["vocab_size"]))
    rng.shuffle(ids)
    weights = list(accumulate(1 / rank for rank in range(1, len(ids) + 1)))
    return [rng.choices(ids, cum_weights=weights, k=PROMPT_TOKENS) for _ in range(count)]


def measure(directory: str, requests: int, seed: int) -> dict:
    """Runs in a fresh process: what is resident at each stage."""
    import torch

    from hidden_decoding import LocalEngine, SamplingParams

    torch.set_num_threads(1)
    stages = {"libraries_imported": shown(resident_bytes())}
    engine = LocalEngine(directory, stream_tables="mmap", dtype="float32", kv_cache_memory_bytes=KV_BYTES)
    stages["before_the_first_request"] = shown(resident_bytes())
    params = SamplingParams(max_tokens=ANSWER_TOKENS, temperature=0.0, ignore_eos=True)
    drawn, answers = prompts(requests, seed), 0
    for start in range(0, requests, 100):
        answers += len(engine.generate(drawn[start : start + 100], params))
        stages[f"after_{answers}_requests"] = shown(resident_bytes())
    touched = {token for prompt in drawn for token in prompt}
    return {"streams": engine.num_streams, "stages": stages, "different_prompt_tokens": len(touched)}


def shown(memory: Resident) -> dict[str, int]:
    return {"anonymous": memory.anonymous, "file_backed": memory.file_backed, "total": memory.total}


def in_own_process(directory: Path, requests: int, seed: int) -> dict:
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", str(directory)]
    result = subprocess.run(
        [*command, "--requests", str(requests), "--seed", str(seed)], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(result.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", default="1,8", help="the first is what the others are compared with")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.requests, args.seed)))
        return 0
    runs = []
    with tempfile.TemporaryDirectory(prefix="memory-after-requests-") as name:
        for n in map(int, args.streams.split(",")):
            directory = Path(name) / f"n{n}"
            make_checkpoint(directory, n)
            run = in_own_process(directory, args.requests, args.seed)
            run["checkpoint_bytes"] = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
            runs.append(run)
    return report(runs, args)


def report(runs: list[dict], args: argparse.Namespace) -> int:
    last = f"after_{args.requests}_requests"
    first = runs[0]["stages"]
    for run in runs:
        for stage in ("before_the_first_request", last):
            memory = run["stages"][stage]
            memory["total_over_first"] = memory["total"] / first[stage]["total"]
            # The libraries are the same for every n and would hide a difference.
            own, own_first = (
                one[stage]["total"] - one["libraries_imported"]["total"] for one in (run["stages"], first)
            )
            memory["beyond_libraries_over_first"] = own / own_first
            memory["anonymous_over_first"] = memory["anonymous"] / first[stage]["anonymous"]
            print(
                f"n={run['streams']} {stage:>26}: anonymous {memory['anonymous'] / 2**20:7.1f} MiB, file-backed "
                f"{memory['file_backed'] / 2**20:7.1f} MiB, total {memory['total_over_first']:.3f} of the first n's, "
                f"{memory['beyond_libraries_over_first']:.3f} beyond the libraries"
            )
    before = [run["stages"]["before_the_first_request"] for run in runs]
    passed = all(max(one["total_over_first"], one["beyond_libraries_over_first"]) <= ALLOWED for one in before)
    print(f"within 10% before the first request: {passed}")
    if args.out:
        facts = {"shape": SHAPE, "dtype": "float32", "kv_cache_bytes": KV_BYTES, "requests": args.requests}
        lengths = {"prompt_tokens": PROMPT_TOKENS, "answer_tokens": ANSWER_TOKENS}
        verdict = {"within_10_percent_before_the_first_request": passed}
        write_record(args.out, {"benchmark": "memory_after_requests", **facts, **lengths, **verdict, "runs": runs})
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
