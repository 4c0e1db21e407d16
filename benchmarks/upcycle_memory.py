"""How much memory and time `hidden-decoding upcycle` takes on a large checkpoint kept in one single file.

Makes a Qwen3 checkpoint of the given shape with random bfloat16 weights, runs the command in a process of its own,
without and with noise, and samples that process's memory in /proc every 50 ms. Before, between and after it measures a
plain copy of the checkpoint (`dd`, the disk's floor; seconds of the command include starting Python, `dd`'s do not).
Needs about 2.6 times the checkpoint's size on disk (8b: 43 GB) and deletes all of it afterwards. Linux only. The record
it writes is raw JSON; sizes are bytes, "MB/s" are 10^6 bytes written per second.

    $ python benchmarks/upcycle_memory.py --shape 8b --scratch /path/to/a/large/disk
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch

from hidden_decoding.bench.record import write_record
from hidden_decoding.modeling.checkpoint import expected_tensors, load_config, tensor_index, verify_checkpoint
from hidden_decoding.modeling.safetensors_file import SafetensorsWriter, TensorSpec, tensor_chunks

HERE = Path(__file__).resolve().parent
SAMPLE_SECONDS = 0.05
BLOCK_BYTES = 64 * 2**20
LIMIT_ANONYMOUS = 3 * 10**9  # what the project promises
COMMON = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "dtype": "bfloat16",
    "head_dim": 128,
    "num_key_value_heads": 8,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "eos_token_id": 151643,
}
SHAPES = {
    "8b": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
    "1.7b": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    "tiny": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 16},
}


def make_base(directory: Path, shape: str) -> int:
    """One file, whatever its size; the weights are one block of normal numbers over and over. Returns its bytes."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({**COMMON, **SHAPES[shape]}))
    specs = {name: TensorSpec("BF16", size) for name, size in expected_tensors(load_config(directory)).items()}
    generator = torch.Generator().manual_seed(0)
    block = torch.empty(BLOCK_BYTES // 2).normal_(std=0.02, generator=generator).bfloat16()
    data = memoryview(bytes(block.view(torch.uint8).numpy()))
    with SafetensorsWriter(directory / "model.safetensors", specs) as writer:
        for number, (name, spec) in enumerate(specs.items()):
            first = data[(number * 4096) % BLOCK_BYTES :]  # so that equal shapes hold different bytes
            whole = [first, *[data] * (spec.nbytes // BLOCK_BYTES + 1)]
            writer.write(name, cut(whole, spec.nbytes))
    return (directory / "model.safetensors").stat().st_size


def cut(pieces: list[memoryview], total: int):
    for piece in pieces:
        yield piece[:total]
        total -= min(total, len(piece))


def copy_floor(scratch: Path) -> dict:
    """The same disk and bytes with the least work: dd, and brought to disk as `upcycle` brings its files there."""
    source, target = scratch / "base" / "model.safetensors", scratch / "copy"
    command = ["dd", f"if={source}", f"of={target}", "bs=64M", "conv=fsync", "status=none"]
    start = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - start
    size = target.stat().st_size
    target.unlink()
    shown = f"dd if={source.name} of={target.name} bs=64M conv=fsync"
    return {
        "command": shown,
        "bytes": size,
        "seconds": round(seconds, 2),
        "mb_per_second": round(size / seconds / 1e6, 1),
    }


def memory_of(pid: int) -> dict[str, int]:
    """RssAnon, RssFile, RssShmem and VmHWM (the kernel's own peak of all together) in bytes."""
    fields = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "RssFile", "RssShmem", "VmHWM"):
            fields[name] = int(value.split()[0]) * 1024
    return fields


def measured(command: list[str], cwd: Path) -> dict:
    """Runs the command; peaks over all samples, and the largest RssAnon of each second."""
    peaks, per_second, samples = {}, [], 0
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, text=True)
    while process.poll() is None:
        try:
            now = memory_of(process.pid)
        except (FileNotFoundError, ProcessLookupError):
            break
        if now:  # a process that has ended but was not waited for shows no memory
            samples += 1
            peaks = {name: max(value, peaks.get(name, 0)) for name, value in now.items()}
            second = int(time.perf_counter() - start)
            per_second += [0] * (second + 1 - len(per_second))
            per_second[second] = max(per_second[second], now["RssAnon"])
        time.sleep(SAMPLE_SECONDS)
    output, _ = process.communicate()
    seconds = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return {
        "seconds": round(seconds, 2),
        "peak_rss_anon": peaks["RssAnon"],
        "peak_rss_file": peaks["RssFile"],
        "peak_rss_shmem": peaks["RssShmem"],
        "peak_rss_total_by_kernel": peaks["VmHWM"],
        "samples": samples,
        "sample_seconds": SAMPLE_SECONDS,
        "rss_anon_per_second": per_second,
        "result": json.loads(output),
    }


def upcycled(scratch: Path, streams: int, noise: float) -> dict:
    flags = ["upcycle", "base", "--streams", str(streams), "--out", "result", "--noise", str(noise), "--json"]
    run = measured([sys.executable, "-m", "hidden_decoding.cli.main", *flags], scratch)
    out = scratch / "result"
    run["bytes_out"] = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    run["files_out"] = {path.name: path.stat().st_size for path in sorted(out.glob("*.safetensors"))}
    run["mb_per_second"] = round(run["bytes_out"] / run["seconds"] / 1e6, 1)
    run["tables_checked"] = check(scratch / "base", out, noisy=noise > 0)
    result = run.pop("result")
    run |= {key: result[key] for key in ("streams", "position_scheme", "context", "weight_bytes")}
    shutil.rmtree(out)
    return {"command": " ".join(["hidden-decoding", *flags]), "noise": noise, **run}


def check(base: Path, out: Path, *, noisy: bool) -> int:
    """All tensors are there, and each table begins (or, a copy with noise, does not) as the base's. How many tables."""
    index = verify_checkpoint(out, load_config(out))
    original = next(islice(tensor_chunks(*tensor_index(base)["model.embed_tokens.weight"], 2**20), 1))
    tables = [name for name in index if "embed_tokens" in name]
    for name in tables:
        same = bytes(next(tensor_chunks(*index[name], 2**20))) == bytes(original)
        if same == (noisy and name != "model.embed_tokens.weight"):
            sys.exit(f"{name} holds the wrong bytes")
    return len(tables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--noise", type=float, nargs="*", default=[0.0, 0.1], help="one run for each")
    parser.add_argument("--scratch", type=Path, required=True, help="a directory on a disk with room")
    parser.add_argument("--out", type=Path, default=HERE / "records" / "upcycle_memory.json", help="the record")
    args = parser.parse_args()
    args.scratch.mkdir(parents=True, exist_ok=True)
    record = {
        "benchmark": "upcycle_memory",
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_before": os.getloadavg()[0],
        "shape": {"name": args.shape, **COMMON, **SHAPES[args.shape]},
        "streams": args.streams,
    }
    with tempfile.TemporaryDirectory(dir=args.scratch, prefix="upcycle-memory-") as name:
        scratch = Path(name)
        record["bytes_in"] = make_base(scratch / "base", args.shape)
        record["copy_floor"], record["runs"] = [copy_floor(scratch)], []
        for noise in args.noise:  # a copy before, between and after, as disks that others use vary
            record["runs"].append(upcycled(scratch, args.streams, noise))
            record["copy_floor"].append(copy_floor(scratch))
    record["copy_floor_median_mb_per_second"] = statistics.median(c["mb_per_second"] for c in record["copy_floor"])
    for run in record["runs"]:
        run["share_of_copy_floor"] = round(run["mb_per_second"] / record["copy_floor_median_mb_per_second"], 3)
        run["peak_rss_anon_under_3_gb"] = run["peak_rss_anon"] < LIMIT_ANONYMOUS
    # The scratch directory is a path of this machine.
    write_record(args.out, record, command=" ".join(["upcycle_memory.py", *shown_arguments(args)]))
    report(record)


def shown_arguments(args: argparse.Namespace) -> list[str]:
    noise = [str(value) for value in args.noise]
    return ["--shape", args.shape, "--streams", str(args.streams), "--noise", *noise, "--scratch", "SCRATCH"]


def report(record: dict) -> None:
    floors = ", ".join(str(copy["mb_per_second"]) for copy in record["copy_floor"])
    print(f"in {record['bytes_in'] / 1e9:.2f} GB in one file; dd copies it at {floors} MB/s (before, between, after)")
    print("noise   GB out  seconds    MB/s  of dd  peak anonymous MB  peak file-backed MB")
    for run in record["runs"]:
        print(
            f"{run['noise']:<6} {run['bytes_out'] / 1e9:7.2f} {run['seconds']:8.1f} {run['mb_per_second']:7.1f} "
            f"{run['share_of_copy_floor']:6.2f} {run['peak_rss_anon'] / 1e6:18.0f} {run['peak_rss_file'] / 1e6:20.0f}"
        )


if __name__ == "__main__":
    main()
