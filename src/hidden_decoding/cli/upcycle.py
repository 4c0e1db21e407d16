"""`hidden-decoding upcycle`: a base checkpoint gets n streams, or one of n streams gets k * n.

$ hidden-decoding upcycle path/to/base --streams 4 --out path/to/base-n4
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hidden_decoding.cli.options import add_dataclass_arguments, add_trust_remote_code, from_arguments
from hidden_decoding.upcycling.config import UpcycleConfig

if TYPE_CHECKING:
    import argparse

    from hidden_decoding.upcycling.plan import UpcyclePlan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The base, where the result goes, and the fields of `UpcycleConfig`."""
    streams = UpcycleConfig.__dataclass_fields__["streams"].metadata
    parser.add_argument("base", metavar="BASE", help="Qwen3 or hidden-decoding checkpoint: a directory or a hub id")
    parser.add_argument("--streams", type=int, required=True, metavar=streams["metavar"], help=streams["help"])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory to make")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit, when BASE is a hub id")
    add_trust_remote_code(parser)
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")
    add_dataclass_arguments(parser, UpcycleConfig, skip=("streams",))


def run(args: argparse.Namespace) -> int:
    """Plans, writes, and says what was made."""
    settings = from_arguments(UpcycleConfig, args)

    from hidden_decoding.modeling.staged_directory import check_target
    from hidden_decoding.upcycling.plan import plan_upcycling
    from hidden_decoding.upcycling.writing import write_upcycled

    check_target(args.out, overwrite=settings.overwrite)  # before anything is fetched
    plan = plan_upcycling(args.base, settings, revision=args.revision)
    out = write_upcycled(plan, args.out, progress=not args.quiet)
    report = summary(plan, out, args.out)
    print(json.dumps(report, indent=2) if args.json else human(plan, report))
    return 0


def summary(plan: UpcyclePlan, out: Path, shown: Path) -> dict[str, Any]:
    """What was made, for `--json`; `shown` is the directory as the user wrote it."""
    return {
        "out": str(out),
        "base": plan.base,
        "base_streams": plan.base_config.num_streams,
        "streams": plan.config.num_streams,
        "tables_copied": plan.tables_copied,
        "noise": plan.settings.noise,
        "seed": plan.settings.seed,
        "position_scheme": plan.scheme,
        "context": {"tokens": plan.config.max_tokens, "positions": plan.config.max_position_embeddings},
        "weight_bytes": plan.total_bytes,
        "weight_files": len(list(out.glob("*.safetensors"))),
        "next": shlex.join(["hidden-decoding", "inspect", str(shown)]),
    }


def human(plan: UpcyclePlan, report: dict[str, Any]) -> str:
    """The same for people. Labels are aligned; every count names its unit."""
    from hidden_decoding.upcycling.model_card import noise_line, scheme_line, tables_line

    context = report["context"]
    return "\n".join(
        [
            f"made      {report['out']}",
            f"streams   {report['streams']} (the base has {report['base_streams']})",
            f"tables    {tables_line(plan)} ({report['tables_copied']} copied)",
            f"noise     {noise_line(plan)}",
            f"positions {scheme_line(plan)}",
            f"context   {context['tokens']} tokens = {context['positions']} positions",
            f"weights   {report['weight_bytes'] / 1e9:.3g} GB in {report['weight_files']} file(s)",
            "The copies are untrained: continue with `hidden-decoding train cpt`.",
            f"next      {report['next']}",
        ]
    )
