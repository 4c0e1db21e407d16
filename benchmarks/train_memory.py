"""Memory that `train plan` predicts against memory that `train cpt` takes, in real processes on a CPU.

For every case (streams, gradient checkpointing, precision, processes) a process of its own first trains a very small
model, so that libraries, threads and the tokenizer are in memory, notes its resident size, resets the kernel's peak,
and then runs two steps of `train cpt` on the real shape. What is compared is the peak over that first size: weights,
gradients, optimiser and activations. Two processes shard as `train cpt` under torchrun does (FSDP2, here over gloo);
the larger of them counts, with the same rows for each as in one process. glibc is told to hand freed blocks back at
once, so that its caches do not count. Linux only.

    $ python benchmarks/train_memory.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SHAPE = {
    "vocab_size": 4096,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
SMALL = {**SHAPE, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
TOKENS, ROWS, STEPS = 512, 2, 2
CASES = [
    {"streams": n, "gradient_checkpointing": checkpointing, "precision": precision, "processes": processes}
    for processes in (1, 2)
    for n, precision in ((1, "fp32"), (4, "fp32"), (4, "bf16"))
    for checkpointing in (False, True)
]
RECORD = Path(__file__).resolve().parent / "records" / "train_memory.json"
GLIBC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def make_model(directory: Path, streams: int, shape: dict) -> Path:
    """A checkpoint with random float32 weights and a tokenizer of the shape's vocabulary."""
    from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig
    from hidden_decoding.modeling.model import Qwen3ScaleSeqForCausalLM
    from hidden_decoding.train.tokenizer import standard_library_texts, train_tokenizer

    config = Qwen3ScaleSeqConfig(
        **shape,
        scale_seq_times=streams - 1,
        max_position_embeddings=65536,
        tie_word_embeddings=False,
        dtype="float32",
        eos_token_id=0,
    )
    Qwen3ScaleSeqForCausalLM(config).save_pretrained(directory)
    train_tokenizer(standard_library_texts(300_000), 1000).save_pretrained(directory)
    return directory


def configuration(model: Path, text: Path, out: Path, case: dict, steps: int = STEPS):
    """The run whose memory is predicted and measured."""
    from hidden_decoding.train.config import CptConfig

    return CptConfig.build(
        model=str(model),
        data=(str(text),),
        out=str(out),
        heldout_fraction=0.0,
        cache_dir=str(text.parent / "tokens"),
        tokens_per_sequence=TOKENS,
        sequences_per_step=ROWS * case["processes"],
        steps=steps,
        device="cpu",
        gradient_checkpointing=case["gradient_checkpointing"],
        precision=case["precision"],
    )


def predicted(model: Path, case: dict) -> dict:
    """What the plan says of the same run."""
    from hidden_decoding.train.plan import plan_run
    from hidden_decoding.train.plan_settings import PlanSettings

    config = configuration(model, model / "text.jsonl", model / "run", case)
    (stage,) = plan_run([config], PlanSettings(gpus=case["processes"]))
    return stage.as_dict()["memory"]


def measure(folder: Path, case: dict) -> dict:
    """In the child: bytes before, at the peak of two steps, and between."""
    from hidden_decoding.modeling.export_config import ExportConfig  # noqa: F401 - all that a run imports, beforehand
    from hidden_decoding.train import loop, parallelize

    loop.export_model = lambda *_: None  # the peak of training, not of writing the result
    text = folder / "text.jsonl"
    world = parallelize.start("cpu")  # joined once: the same processes cannot be sure to meet a second time
    loop.train_in(world, configuration(folder / "small", text, folder / "warm", case), progress=False, label="")
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    loop.train_in(world, configuration(folder / "model", text, folder / "run", case), progress=False, label="")
    parallelize.stop(world)
    return {"before_bytes": before, "peak_bytes": status("VmHWM"), "taken_bytes": status("VmHWM") - before}


def status(key: str) -> int:
    """One figure of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def compare(case: dict) -> dict:
    """Predicted and measured bytes of one case; the measurement in a process of its own."""
    from hidden_decoding.train.tokenizer import standard_library_texts

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        lines = [json.dumps({"text": text[:2000]}) for text in standard_library_texts(400_000)]
        (folder / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        make_model(folder / "small", case["streams"], SMALL)
        make_model(folder / "model", case["streams"], SHAPE)
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={case['processes']}"]
        start = [sys.executable, *(launcher if case["processes"] > 1 else [])]
        command = [*start, __file__, "--child", str(folder), json.dumps(case)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **GLIBC})
        if done.returncode:
            raise SystemExit(done.stderr)
        every = [json.loads(path.read_text()) for path in folder.glob("found-*.json")]
        assert len(every) == case["processes"]
        found = max(every, key=lambda one: one["taken_bytes"])
        plan = predicted(folder / "model", case)
    return {**case, **found, "predicted": plan, "predicted_over_taken": plan["total"] / found["taken_bytes"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RECORD)
    args = parser.parse_args()
    if args.child:
        folder = Path(args.child[0])
        found = json.dumps(measure(folder, json.loads(args.child[1])))
        (folder / f"found-{os.environ.get('RANK', '0')}.json").write_text(found)
        return
    from hidden_decoding.bench.record import write_record

    results = []
    for case in CASES:
        results.append(compare(case))
        last = results[-1]
        print(
            f"n = {last['streams']}, {last['precision']}, checkpointing {last['gradient_checkpointing']}, "
            f"{last['processes']} process(es): predicted {last['predicted']['total'] / 2**20:.0f} MiB, taken "
            f"{last['taken_bytes'] / 2**20:.0f} MiB, {last['predicted_over_taken']:.3f}"
        )
    shape = {**SHAPE, "tokens_per_sequence": TOKENS, "sequences_per_pass": ROWS}
    write_record(args.out, {"shape": shape, "cases": results}, command="python benchmarks/train_memory.py")


if __name__ == "__main__":
    main()
