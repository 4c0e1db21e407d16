"""The CPU image: its size, the time from `podman run` to the first token, and memory when it serves.

Contract: measures the image that `tests/container/image.py` built, with its default command, a read-only root and a
checkpoint of random weights (the shape of all benchmarks, n = 4). Needs root, podman and crun.

$ python benchmarks/container_cpu.py --out benchmarks/records/container_cpu.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from hidden_decoding import Qwen3ScaleSeqConfig, Qwen3ScaleSeqForCausalLM
from hidden_decoding.bench.record import BENCH_100M, spread, write_record
from tests.container.image import IMAGE, build_image, has_image, run
from tests.container.running import Container, ask, memory_bytes, packages_inside
from tests.support import tiny_tokenizer

STREAMS, PROMPT = 4, "Once upon a time"


def make_checkpoint(directory: Path) -> None:
    """Random weights of the benchmarks' shape, with a tokenizer."""
    torch.manual_seed(0)
    config = Qwen3ScaleSeqConfig(**BENCH_100M, scale_seq_times=STREAMS - 1, tie_word_embeddings=False)
    Qwen3ScaleSeqForCausalLM(config).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)


def start_once(model: Path) -> dict[str, float]:
    """One cold start: seconds to listen and to the first token, and memory after it and after ten more answers."""
    started = time.monotonic()
    with Container(model) as container:
        container.wait_until_healthy()
        healthy = time.monotonic() - started
        first = ask(container.url, PROMPT, max_tokens=1)
        first_token = time.monotonic() - started
        after_one = memory_bytes(container.name)
        for _ in range(10):
            ask(container.url, PROMPT, max_tokens=32)
        assert first.usage.completion_tokens == 1
        return {
            "seconds_to_healthy": healthy,
            "seconds_to_first_token": first_token,
            "memory_after_first_token": after_one,
            "memory_after_10_answers": memory_bytes(container.name),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="Size, cold start and memory of the CPU image.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/records/container_cpu.json"))
    args = parser.parse_args()
    if not has_image(IMAGE):
        build_image()
    with tempfile.TemporaryDirectory() as place:
        model = Path(place) / "model"
        make_checkpoint(model)
        for path in (Path(place), model, *model.iterdir()):
            path.chmod(0o755)
        runs = [start_once(model) for _ in range(args.runs)]
    size = int(json.loads(run("podman", "image", "inspect", IMAGE))[0]["Size"])
    packages = packages_inside()
    results = {
        "benchmark": "container_cpu",
        "shape": BENCH_100M,
        "streams": STREAMS,
        "image_bytes": size,
        "python_packages": len(packages),
        "nvidia_packages": sum(name.startswith("nvidia") for name in packages),
        **{key: spread([entry[key] for entry in runs]) for key in runs[0]},
        "runs": runs,
    }
    write_record(args.out, results)
    print(json.dumps({key: value for key, value in results.items() if key != "runs"}, indent=1))


if __name__ == "__main__":
    main()
