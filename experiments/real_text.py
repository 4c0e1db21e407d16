"""Experiment B: continued pretraining on real text at n = 1, 2, 4 on the same tokens, and n = 1 for n times the steps.

One base is trained on books 00-01. For each seed, chapters of books 02 that make up about one epoch of the run are
drawn; `upcycle` gives the base its streams (linear positions, copies + 0.1 sigma noise) and `train_cpt` continues it on
exactly these tokens in the same order for every n. Evaluation is on the same held-out rows of books never trained on.
The equal-compute control of n = 2 repeats n = 1 on the same chapters for twice the steps. Every finished run is kept in
`results/real_text.json` at once; runs in it are not repeated. Needs HIDDEN_DECODING_DATA.

    $ python experiments/real_text.py --minutes 60 --seeds 3
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from hidden_decoding import Qwen3ScaleSeqConfig, Qwen3ScaleSeqForCausalLM, upcycle
from hidden_decoding.train.config import CptConfig
from hidden_decoding.train.loop import CptResult, train_cpt
from hidden_decoding.train.tokenizer import train_tokenizer

RESULTS = Path(__file__).parent / "results" / "real_text.json"
BYTES_PER_TOKEN = 3.0  # about what the tokenizer reaches on this text; each run records its epochs


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a set of runs has in common; results of another size are refused, not mixed."""

    vocabulary: int = 2048
    width: int = 96
    layers: int = 4
    heads: int = 3
    feed_forward: int = 288
    tokens_per_sequence: int = 64
    sequences_per_step: int = 16
    base_steps: int = 300
    steps: int = 60
    learning_rate: float = 1.5e-3
    noise: float = 0.1
    evaluate_every: int = 30
    evaluate_tokens: int = 20_000

    def tokens(self, steps: int) -> int:
        """Tokens read in `steps` steps."""
        return steps * self.sequences_per_step * self.tokens_per_sequence


def texts(*names: str) -> list[str]:
    """Chapters of the named shards."""
    folder = Path(os.environ["HIDDEN_DECODING_DATA"]) / "text" / "en"
    return [json.loads(line)["text"] for name in names for line in (folder / name).open(encoding="utf-8")]


def write_slice(chapters: list[str], tokens: int, seed: int, path: Path) -> Path:
    """Chapters drawn by the seed until they hold `tokens` tokens, the last one cut, as a JSONL file."""
    room, lines = int(tokens * BYTES_PER_TOKEN), []
    for index in random.Random(seed).sample(range(len(chapters)), len(chapters)):
        if room <= 0:
            break
        text = chapters[index][:room]
        lines.append(json.dumps({"text": text}))
        room -= len(text.encode())
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class Bench:
    """The work folder: tokenizer, base, slices; and the kept runs."""

    def __init__(self, size: Size, work: Path) -> None:
        self.size, self.work = size, work
        self.kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"size": asdict(size), "runs": []}
        if self.kept["size"] != asdict(size):
            raise SystemExit(f"{RESULTS} holds runs of another size; move it away first")

    def base(self) -> Path:
        """The n = 1 base, trained once in this work folder."""
        out = self.work / "base"
        if (out / "model").exists():
            return out / "model"
        chapters = texts("books_train-00.jsonl", "books_train-01.jsonl")
        size, fresh = self.size, self.work / "fresh"
        tokenizer = train_tokenizer(random.Random(0).sample(chapters, min(150, len(chapters))), size.vocabulary)
        torch.manual_seed(0)
        config = Qwen3ScaleSeqConfig(
            scale_seq_times=0,
            vocab_size=size.vocabulary,
            hidden_size=size.width,
            intermediate_size=size.feed_forward,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.heads,
            head_dim=size.width // size.heads,
            max_position_embeddings=size.tokens_per_sequence,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            tie_word_embeddings=False,
            eos_token_id=0,
            dtype="float32",
        )
        Qwen3ScaleSeqForCausalLM(config).save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        slice_path = write_slice(chapters, size.tokens(size.base_steps), 0, self.work / "base.jsonl")
        self.train(fresh, slice_path, size.base_steps, 0, out)
        return out / "model"

    def train(self, start: Path, slice_path: Path, steps: int, seed: int, out: Path) -> CptResult:
        """The project's own training loop."""
        size = self.size
        held_out = Path(os.environ["HIDDEN_DECODING_DATA"]) / "text" / "en" / "books_valid-00.jsonl"
        config = CptConfig.build(
            model=str(start),
            data=(str(slice_path),),
            heldout=(str(held_out),),
            cache_dir=str(self.work / "tokens"),
            out=str(out),
            tokens_per_sequence=size.tokens_per_sequence,
            sequences_per_step=size.sequences_per_step,
            steps=steps,
            warmup_steps=10,
            learning_rate=size.learning_rate,
            evaluate_every=size.evaluate_every * steps // size.steps if steps >= size.steps else 0,
            evaluate_tokens=size.evaluate_tokens,
            data_seed=seed,
            seed=seed,
            device="cpu",
        )
        return train_cpt(config, progress=False)

    def run(self, name: str, streams: int, epochs: int, seed: int) -> None:
        """One run, unless it is kept already."""
        if any((run["name"], run["seed"]) == (name, seed) for run in self.kept["runs"]):
            return
        size, start = self.size, self.base()
        slice_path = write_slice(texts("books_train-02.jsonl"), size.tokens(size.steps), seed, self.work / "cpt.jsonl")
        if streams > 1:
            start = upcycle(
                start, streams, self.work / "start", noise=size.noise, seed=seed, overwrite=True, progress=False
            )
        began = time.process_time()
        with tempfile.TemporaryDirectory(dir=self.work) as out:
            result = self.train(start, slice_path, epochs * size.steps, seed, Path(out) / "run")
        backbone = sum(
            weight.numel()
            for weight_name, weight in Qwen3ScaleSeqForCausalLM.from_pretrained(start).named_parameters()
            if "embed" not in weight_name and "lm_head" not in weight_name
        )
        evaluations = [record for record in result.records if record["kind"] == "evaluation"]
        available = next(record["training_tokens_available"] for record in result.records if record["kind"] == "start")
        self.kept["runs"].append(
            {
                "name": name,
                "streams": streams,
                "seed": seed,
                "steps": epochs * size.steps,
                "epochs": result.tokens / available,
                "training_tokens": result.tokens,
                "backbone_parameters": backbone,
                # 6 floating-point operations per backbone weight and position; attention and head left out.
                "backbone_flops": 6 * backbone * result.positions,
                "final_loss": result.heldout_loss,
                "bits_per_byte": result.bits_per_byte,
                "curve": [[record["step"], record["heldout_loss"]] for record in evaluations],
                "heldout_tokens": evaluations[-1]["heldout_tokens"],
                "processor_seconds": time.process_time() - began,
            }
        )
        RESULTS.parent.mkdir(exist_ok=True)
        part = RESULTS.with_suffix(".part")
        part.write_text(json.dumps(self.kept, indent=1) + "\n")
        part.replace(RESULTS)
        print({k: v for k, v in self.kept["runs"][-1].items() if k != "curve"}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60, help="starts no run after this long")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="folder for base and slices, kept between calls; a temporary one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    until = time.time() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Size(), options.work or Path(temporary))
        for seed in range(1, options.seeds + 1):
            for name, streams, epochs in (("n=1", 1, 1), ("n=2", 2, 1), ("n=4", 4, 1), ("n=1, 2x steps", 1, 2)):
                if time.time() < until:
                    bench.run(name, streams, epochs, seed)


if __name__ == "__main__":
    main()
