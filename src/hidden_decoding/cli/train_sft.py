"""`hidden-decoding train sft`: supervised fine-tuning on chats from a run file, flags, or both (flags win).

$ hidden-decoding train sft --model base-n2 --data chats.jsonl --out runs/chat-n2
$ hidden-decoding train sft -c run.yaml --lora-rank 16 --control base-n1
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hidden_decoding.cli.run_file import add_run_arguments, built_sections
from hidden_decoding.train.sft_config import SECTIONS, SftConfig

if TYPE_CHECKING:
    from hidden_decoding.train.sft import SftResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `train sft`."""
    add_run_arguments(parser, SECTIONS)


def run(args: argparse.Namespace) -> int:
    """Trains, then prints what came of it."""
    config = SftConfig(**built_sections(args, SECTIONS))

    from transformers.utils import logging as transformers_logging

    from hidden_decoding.train.sft import train_sft

    transformers_logging.disable_progress_bar()  # ours shows the training
    result = train_sft(config, progress=not args.quiet)
    if result.records:  # only the first process has them
        print(json.dumps(summary(result)) if args.json else describe(result))
    return 0


def summary(result: SftResult) -> dict[str, Any]:
    """The result as plain data."""
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    records, control = fields.pop("records"), fields.pop("control")
    fields = {name: str(value) if isinstance(value, Path) else value for name, value in fields.items()}
    fields["evaluations"] = [record for record in records if record["kind"] == "evaluation"]
    if control is not None:
        fields["control"] = summary(control)
        fields["difference_to_control"] = _difference(result)
    return fields


def describe(result: SftResult) -> str:
    """The result for people."""
    lines = [*result.remarks, *_losses(result)]
    if result.control is not None:
        lines += _losses(result.control)
        if (difference := _difference(result)) is not None:
            side = "below" if difference < 0 else "above"
            lines.append(f"n = {result.streams} ends {abs(difference):.4f} nats per token {side} the n = 1 control")
    if result.model is None:
        lines.append(f"stopped before the last step; go on with the same command and --resume (run: {result.out})")
        return "\n".join(lines)
    if result.adapter is not None:
        lines.append(f"adapter: {result.adapter}")
    serve, chat = f"hidden-decoding serve {result.model}", "hidden-decoding chat"
    return "\n".join([*lines, f"model: {result.model}", f"next: {serve}, and beside it {chat}"])


def _losses(result: SftResult) -> list[str]:
    counts = (
        f"{result.tokens:,} tokens = {result.positions:,} positions, {result.learned_tokens:,} of the tokens learned"
    )
    lines = [f"n = {result.streams}: step {result.step}, {counts}, {result.seconds:.1f} s of training"]
    return lines + [
        f"  step {record['step']:>6}: held-out loss {record['heldout_loss']:.4f} nats per assistant token, "
        f"{record['bits_per_byte']:.4f} bits per byte"
        for record in result.records
        if record["kind"] == "evaluation"
    ]


def _difference(result: SftResult) -> float | None:
    """Held-out loss of the run less its control's."""
    other = result.control.heldout_loss if result.control else None
    return None if other is None or result.heldout_loss is None else result.heldout_loss - other
