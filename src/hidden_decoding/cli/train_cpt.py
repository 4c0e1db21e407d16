"""`hidden-decoding train cpt`: continued pretraining from a run file, flags, or both (flags win).

$ hidden-decoding train cpt -c recipes/cpt-small.yaml --model base-n2 --data books/ --out runs/books-n2
$ hidden-decoding train cpt -c recipes/cpt-doubling-small.yaml --model base --data books/ --out runs/doubling
$ torchrun --nproc-per-node 2 --no-python hidden-decoding train cpt -c run.yaml
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hidden_decoding.cli.run_file import add_run_arguments, built_sections, built_stages
from hidden_decoding.train.config import SECTIONS, CptConfig

if TYPE_CHECKING:
    from hidden_decoding.train.loop import CptResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `train cpt`."""
    add_run_arguments(parser, SECTIONS)


def run(args: argparse.Namespace) -> int:
    """Trains, then prints what came of it."""
    stages = [CptConfig(**sections) for sections in built_stages(args, SECTIONS)]
    if stages:
        return _run_stages(stages, args)
    config = CptConfig(**built_sections(args, SECTIONS))

    from hidden_decoding.train.loop import train_cpt

    _quiet_transformers()
    result = train_cpt(config, progress=not args.quiet)
    if result.records:  # only the first process has them
        print(json.dumps(summary(result)) if args.json else describe(result))
    return 0


def _run_stages(stages: list[CptConfig], args: argparse.Namespace) -> int:
    from hidden_decoding.train.stages import chain_stages, train_stages

    _quiet_transformers()
    results = [r for r in train_stages(chain_stages(stages), progress=not args.quiet) if r.records]
    if results and args.json:
        print(json.dumps({"stages": [summary(result) for result in results]}))
    elif results:
        print("\n\n".join(describe(result) for result in results))
    return 0


def _quiet_transformers() -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # ours shows the training


def summary(result: CptResult) -> dict[str, Any]:
    """The result as plain data."""
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    evaluations = [record for record in fields.pop("records") if record["kind"] == "evaluation"]
    fields = {name: str(value) if isinstance(value, Path) else value for name, value in fields.items()}
    return {**fields, "evaluations": evaluations}


def describe(result: CptResult) -> str:
    """The result for people."""
    counts = f"{result.tokens:,} tokens = {result.positions:,} positions"
    lines = [f"n = {result.streams}: step {result.step}, {counts}, {result.seconds:.1f} s of training"]
    evaluations = [record for record in result.records if record["kind"] == "evaluation"]
    lines += [
        f"  step {record['step']:>6}: held-out loss {record['heldout_loss']:.4f} nats per token, "
        f"{record['bits_per_byte']:.4f} bits per byte"
        for record in evaluations
    ]
    if result.model is None:
        lines.append(f"stopped before the last step; go on with the same command and --resume (run: {result.out})")
    else:
        lines.append(f"model: {result.model}\nnext: hidden-decoding generate {result.model} --prompt TEXT")
    return "\n".join(lines)
