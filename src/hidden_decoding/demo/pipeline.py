"""Base model, upcycling, continued training: the part of the demonstration that makes models.

    text -> tokenizer -> base (n = 1) -> upcycle to each n -> the same fresh tokens for every n -> one held-out text

Contract: all training is `train_cpt`; the runs differ in their starting checkpoint only, so they read the same tokens
in the same order. n = 1 is the base trained on as it is: the control. Everything lies below `out`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from hidden_decoding.demo.settings import DemoSettings
from hidden_decoding.demo.text import DemoText
from hidden_decoding.train.config import CptConfig
from hidden_decoding.train.loop import CptResult, train_cpt
from hidden_decoding.train.tokenizer import train_tokenizer
from hidden_decoding.upcycling import upcycle

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The base's run, and for each n the run that continued it."""

    base: CptResult
    continued: dict[int, CptResult]


def compare(settings: DemoSettings, text: DemoText, out: Path, *, say: Say, progress: bool) -> Comparison:
    """Trains the base and every continuation."""
    say("Training a tokenizer on the base's part of the text ...")
    start = new_base(settings, text, out / "base-untrained")
    work = f"{settings.base_steps} steps of {settings.tokens_per_step:,} tokens"
    say(f"Training the base (n = 1) from random weights: {work} ...")
    base = train_cpt(_run(settings, text, start, out / "base", fresh=False), progress=progress, label="base  n=1")
    assert base.model is not None, "a run without stop_at_step ends with a model"
    starts = {1: base.model}
    for n in settings.streams:
        if n > 1:
            say(f"Upcycling the base to n = {n}: {n} embedding tables, {n} positions per token ...")
            starts[n] = _upcycled(settings, base.model, n, out / f"start-n{n}")
    say(f"Continuing each for {settings.continued_steps} steps on the same fresh text ...")
    continued = {
        n: train_cpt(
            _run(settings, text, starts[n], out / f"n{n}", fresh=True), progress=progress, label=f"more  n={n}"
        )
        for n in settings.streams
    }
    return Comparison(base=base, continued=continued)


def new_base(settings: DemoSettings, text: DemoText, directory: Path) -> Path:
    """A plain Qwen3 checkpoint with random weights and a tokenizer of its own."""
    tokenizer = train_tokenizer(text.base_texts, settings.vocabulary)
    torch.manual_seed(settings.seed)
    Qwen3ForCausalLM(Qwen3Config(**settings.base_config())).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _upcycled(settings: DemoSettings, base: Path, streams: int, out: Path) -> Path:
    return upcycle(
        base,
        streams,
        out,
        positions=settings.positions,
        noise=settings.noise,
        seed=settings.seed,
        progress=False,
    )


def _run(settings: DemoSettings, text: DemoText, model: Path, out: Path, *, fresh: bool) -> CptConfig:
    steps = settings.continued_steps if fresh else settings.base_steps
    return CptConfig.build(
        model=str(model),
        data=(str(text.fresh if fresh else text.base),),
        heldout=(str(text.heldout),),
        tokens_per_sequence=settings.tokens_per_sequence,
        cache_dir=str(out.parent / "tokens"),
        data_seed=settings.seed,
        learning_rate=settings.learning_rate if fresh else settings.base_learning_rate,
        weight_decay=0.01,
        steps=steps,
        warmup_steps=min(settings.warmup_steps, steps - 1),
        out=str(out),
        sequences_per_step=settings.sequences_per_step,
        device="cpu",
        evaluate_every=max(1, steps // settings.evaluations),
        evaluate_tokens=settings.heldout_tokens,
        seed=settings.seed,
    )
