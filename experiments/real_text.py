"""Experiment B: continued pretraining on real text at n = 1, 2, 4, 8 on the same tokens, and equal compute without it.

One base is trained on books 00-01. For each seed, chapters of books 02 that make up about one epoch of the run are
drawn; `upcycle` gives the base its streams (linear positions, copies + 0.1 sigma noise) and `train_cpt` continues it on
exactly these tokens in the same order for every n. Evaluation is on the same held-out rows of books never trained on.
Every finished run is kept at once in `results/real_text.json` (`real_text_small.json` for `--size small`); runs in it
are not repeated. Needs HIDDEN_DECODING_DATA.

The sizes small and large are for the trend with size: they run n = 1, 2, 4, 8 and no controls. The size gpu is for one
GPU (15M weights in the backbone, bfloat16, about 2e16 FLOPs for three seeds) and has not been run yet. The controls of
medium and gpu, all at n = 1 from the same base and on the same chapters:

- `n=1, k times the steps`: the compute of n = k, spent on k epochs.
- `looped twice`: the layers are applied twice with shared weights, the compute of n = 2.
- `twice as deep`: each layer is followed by a copy whose output projections are zero, so that it starts at the base's
  own loss; the compute of n = 2, twice the backbone.
- `widened to n=4`: the feed-forward layers are widened until the model has the parameters of n = 4; the new neurons'
  output weights are zero, so that it starts at the base's own loss. Its compute is printed.
- `as large as n=4`: another base, wider, with as many parameters in all as n = 4 has; its compute is printed. It was
  trained on the same base text, which cost more than the base of all others did.

    $ python experiments/real_text.py --minutes 60 --seeds 3
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from unittest.mock import patch

import torch

from hidden_decoding import Qwen3ScaleSeqConfig, Qwen3ScaleSeqForCausalLM, upcycle
from hidden_decoding.modeling.checkpoint import load_tokenizer
from hidden_decoding.train import loop
from hidden_decoding.train.config import CptConfig
from hidden_decoding.train.loop import CptResult, train_cpt
from hidden_decoding.train.tokenizer import train_tokenizer

RESULTS = Path(__file__).parent / "results"


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
    base_steps: int = 1200
    steps: int = 600
    learning_rate: float = 1.5e-3
    noise: float = 0.1
    evaluate_every: int = 100
    evaluate_tokens: int = 40_000
    wide_width: int = 132  # of the control that is as large as n = 4
    wide_feed_forward: int = 396
    bytes_per_token: float = 3.0  # about what the tokenizer reaches on this text; each run records its epochs
    device: str = "cpu"
    precision: str = "fp32"
    widened_feed_forward: int = 800  # of the control whose feed-forward grows from the same base until it is so too

    def tokens(self, steps: int) -> int:
        """Tokens read in `steps` steps."""
        return steps * self.sequences_per_step * self.tokens_per_sequence

    def wider(self) -> Size:
        """The shape of the control that is as large as n = 4."""
        return replace(self, width=self.wide_width, feed_forward=self.wide_feed_forward)


SIZES = {
    "medium": Size(),
    "small": Size(width=48, layers=3, feed_forward=144, wide_width=78, wide_feed_forward=270),
    "large": Size(width=160, layers=6, heads=5, feed_forward=480),
    "gpu": Size(
        vocabulary=8192,
        width=384,
        layers=8,
        heads=6,
        feed_forward=1152,
        tokens_per_sequence=256,
        sequences_per_step=32,
        base_steps=2000,
        steps=300,
        learning_rate=1e-3,
        evaluate_every=50,
        evaluate_tokens=200_000,
        wide_width=480,
        wide_feed_forward=1376,
        widened_feed_forward=2176,
        bytes_per_token=3.8,
        device="cuda",
        precision="bf16",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to continue. `shape`: plain, looped (twice), deeper (twice), widened or wider (as large as n = 4)."""

    name: str
    streams: int = 1
    epochs: int = 1
    shape: str = "plain"


# In order of importance, so that a run cut short holds whole comparisons over all seeds.
STREAMS = [[Variant(name=f"n={n}", streams=n) for n in (1, 2, 4)], [Variant(name="n=8", streams=8)]]
CONTROLS = [
    [Variant(name=f"n=1, {k} times the steps", epochs=k) for k in (2, 4)],
    [Variant(name="n=1, looped twice", shape="looped"), Variant(name="n=1, twice as deep", shape="deeper")],
    [Variant(name="n=1, widened to n=4", shape="widened"), Variant(name="n=1, as large as n=4", shape="wider")],
]


def new_model(size: Size) -> Qwen3ScaleSeqForCausalLM:
    """The n = 1 model of this size, with random weights."""
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
    return Qwen3ScaleSeqForCausalLM(config)


def write_deeper(base: Path, size: Size, out: Path) -> Path:
    """`base` with each layer followed by a copy that adds nothing yet: its two output projections are zero."""
    source = Qwen3ScaleSeqForCausalLM.from_pretrained(base)
    deeper = new_model(replace(size, layers=2 * size.layers))
    weights = {name: weight for name, weight in source.state_dict().items() if ".layers." not in name}
    for number, layer in enumerate(source.model.layers):
        for copy, place in enumerate((2 * number, 2 * number + 1)):
            for name, weight in layer.state_dict().items():
                silent = copy == 1 and name in ("self_attn.o_proj.weight", "mlp.down_proj.weight")
                weights[f"model.layers.{place}.{name}"] = torch.zeros_like(weight) if silent else weight
    deeper.load_state_dict(weights)
    deeper.save_pretrained(out)
    load_tokenizer(base).save_pretrained(out)
    return out


def write_widened(base: Path, size: Size, out: Path) -> Path:
    """`base` with more feed-forward neurons: they read with fresh weights and write with zeros, so add nothing yet."""
    source = Qwen3ScaleSeqForCausalLM.from_pretrained(base)
    torch.manual_seed(0)
    widened = new_model(replace(size, feed_forward=size.widened_feed_forward))
    weights = widened.state_dict()
    for name, weight in source.state_dict().items():
        if name.endswith("down_proj.weight"):
            weights[name].zero_()
        weights[name][tuple(slice(0, length) for length in weight.shape)] = weight
    widened.load_state_dict(weights)
    widened.save_pretrained(out)
    load_tokenizer(base).save_pretrained(out)
    return out


@contextmanager
def looped() -> Iterator[None]:
    """While active, `train_cpt` trains a model whose layers are applied twice, with shared weights."""
    load = loop.load_weights

    def twice(config, prepared):
        model = load(config, prepared)
        model.model.layers = torch.nn.ModuleList([*model.model.layers, *model.model.layers])
        model.config.num_hidden_layers *= 2
        model.config.layer_types = [*model.config.layer_types, *model.config.layer_types]
        return model

    with patch.object(loop, "load_weights", twice):
        yield


def texts(*names: str) -> list[str]:
    """Chapters of the named shards."""
    folder = Path(os.environ["HIDDEN_DECODING_DATA"]) / "text" / "en"
    return [json.loads(line)["text"] for name in names for line in (folder / name).open(encoding="utf-8")]


def write_slice(chapters: list[str], size: Size, steps: int, seed: int, path: Path) -> Path:
    """Chapters drawn by the seed until they hold the tokens of `steps` steps, the last one cut, as a JSONL file."""
    room, lines = int(size.tokens(steps) * size.bytes_per_token), []
    for index in random.Random(seed).sample(range(len(chapters)), len(chapters)):
        if room <= 0:
            break
        text = chapters[index][:room]
        lines.append(json.dumps({"text": text}))
        room -= len(text.encode())
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class Bench:
    """The work folder: tokenizer, bases, slices; and the kept runs."""

    def __init__(self, name: str, work: Path) -> None:
        self.size, self.work = SIZES[name], work / name
        self.work.mkdir(parents=True, exist_ok=True)
        self.results = RESULTS / ("real_text.json" if name == "medium" else f"real_text_{name}.json")
        fresh = {"size": asdict(self.size), "torch": torch.__version__, "runs": []}
        self.kept = json.loads(self.results.read_text()) if self.results.exists() else fresh
        if self.kept["size"] != asdict(self.size):
            raise SystemExit(f"{self.results} holds runs of another size; move it away first")

    def base(self, shape: str) -> Path:
        """The n = 1 base of a shape, trained once in this work folder; all but wider start from the plain one."""
        if shape == "deeper":
            return write_deeper(self.base("plain"), self.size, self.work / "deeper")
        if shape == "widened":
            return write_widened(self.base("plain"), self.size, self.work / "widened")
        wide = shape == "wider"
        size, out = (self.size.wider() if wide else self.size), self.work / ("wide-base" if wide else "base")
        if (out / "model").exists():
            return out / "model"
        chapters = texts("books_train-00.jsonl", "books_train-01.jsonl")
        tokenizer = train_tokenizer(random.Random(0).sample(chapters, min(150, len(chapters))), size.vocabulary)
        torch.manual_seed(0)
        fresh = self.work / f"fresh-{out.name}"
        new_model(size).save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        slice_path = write_slice(chapters, size, size.base_steps, 0, self.work / "base.jsonl")
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
            evaluate_every=size.evaluate_every,
            evaluate_tokens=size.evaluate_tokens,
            data_seed=seed,
            seed=seed,
            device=size.device,
            precision=size.precision,
        )
        return train_cpt(config, progress=False)

    def run(self, variant: Variant, seed: int) -> None:
        """One run, unless it is kept already."""
        if any((run["name"], run["seed"]) == (variant.name, seed) for run in self.kept["runs"]):
            return
        size, start = self.size, self.base(variant.shape)
        slice_path = write_slice(texts("books_train-02.jsonl"), size, size.steps, seed, self.work / "cpt.jsonl")
        if variant.streams > 1:
            target = self.work / "start"
            start = upcycle(start, variant.streams, target, noise=size.noise, seed=seed, overwrite=True, progress=False)
        began = time.process_time()
        with (
            tempfile.TemporaryDirectory(dir=self.work) as out,
            looped() if variant.shape == "looped" else nullcontext(),
        ):
            result = self.train(start, slice_path, variant.epochs * size.steps, seed, Path(out) / "run")
        self.keep(variant, seed, start, result, time.process_time() - began)

    def keep(self, variant: Variant, seed: int, start: Path, result: CptResult, seconds: float) -> None:
        """Adds a finished run to the results, which are replaced as a whole."""
        weights = dict(Qwen3ScaleSeqForCausalLM.from_pretrained(start).named_parameters())
        backbone = sum(w.numel() for name, w in weights.items() if "embed" not in name and "lm_head" not in name)
        passes = 2 if variant.shape == "looped" else 1
        evaluations = [record for record in result.records if record["kind"] == "evaluation"]
        available = next(record["training_tokens_available"] for record in result.records if record["kind"] == "start")
        self.kept["runs"].append(
            {
                **asdict(variant),
                "seed": seed,
                "steps": result.step,
                "epochs": result.tokens / available,
                "training_tokens": result.tokens,
                "parameters": sum(w.numel() for w in weights.values()),
                "backbone_parameters": backbone,
                # 6 floating-point operations per backbone weight and position; attention and head left out.
                "backbone_flops": 6 * backbone * passes * result.positions,
                "final_loss": result.heldout_loss,
                "bits_per_byte": result.bits_per_byte,
                "curve": [[record["step"], record["heldout_loss"]] for record in evaluations],
                "heldout_tokens": evaluations[-1]["heldout_tokens"],
                "processor_seconds": seconds,
            }
        )
        RESULTS.mkdir(exist_ok=True)
        part = self.results.with_suffix(".part")
        part.write_text(json.dumps(self.kept, indent=1) + "\n")
        part.replace(self.results)
        print({k: v for k, v in self.kept["runs"][-1].items() if k != "curve"}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60, help="starts no run after this long")
    parser.add_argument("--seeds", type=int, default=3, help="of n = 1, 2, 4, 8")
    parser.add_argument("--control-seeds", type=int, default=3)
    parser.add_argument("--size", choices=SIZES, default="medium")
    parser.add_argument("--work", type=Path, help="folder for bases and slices, kept between calls; a temporary one")
    options = parser.parse_args()
    if SIZES[options.size].device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"--size {options.size} needs a CUDA device, and PyTorch sees none; take another size")
    torch.set_num_threads(1)
    until = time.time() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(options.size, options.work or Path(temporary))
        plan = [(tier, options.seeds) for tier in STREAMS]
        plan += [(tier, options.control_seeds) for tier in CONTROLS if options.size in ("medium", "gpu")]
        for tier, seeds in plan:
            for seed in range(1, seeds + 1):
                for variant in tier:
                    if time.time() < until:
                        bench.run(variant, seed)


if __name__ == "__main__":
    main()
