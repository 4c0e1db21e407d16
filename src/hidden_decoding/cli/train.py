"""`hidden-decoding train KIND`: the kinds of training, each in a module of its own.

$ hidden-decoding train cpt --help
"""

from __future__ import annotations

import argparse

from hidden_decoding.cli import train_cpt, train_plan, train_sft

# kind -> (its module, line for --help, what --help adds to it)
KINDS = {
    "cpt": (train_cpt, "continued pretraining on text", "Lengths and counts are in tokens."),
    "sft": (train_sft, "supervised fine-tuning on chats", "Loss on assistant turns only. Counts are in tokens."),
    "plan": (train_plan, "memory, hours and cost of a run, before it", "Needs a run file and a config.json."),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The kinds and their flags."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for name, (module, line, more) in KINDS.items():
        kind = kinds.add_parser(name, help=line, description=f"{line.capitalize()}. {more}")
        module.add_arguments(kind)


def run(args: argparse.Namespace) -> int:
    """Runs the kind that was asked for."""
    return int(KINDS[args.kind][0].run(args))
