"""`hidden-decoding export`: a checkpoint of ours, or a LoRA adapter of one, in the published format.

$ hidden-decoding export path/to/checkpoint --out path/to/published --max-shard-size 5GB
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from hidden_decoding.cli.options import add_dataclass_arguments, add_trust_remote_code, from_arguments
from hidden_decoding.modeling.export_config import ExportConfig

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `export`."""
    parser.add_argument("model", metavar="MODEL", help="checkpoint or LoRA adapter: a directory or a hub id")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory to make")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit, when MODEL is a hub id")
    add_trust_remote_code(parser)
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")
    add_dataclass_arguments(parser, ExportConfig)


def run(args: argparse.Namespace) -> int:
    """Verifies, writes, and says what was made."""
    settings = from_arguments(ExportConfig, args)

    from hidden_decoding.modeling.exporting import export_checkpoint

    made = export_checkpoint(args.model, args.out, settings, revision=args.revision, progress=not args.quiet)
    report = {
        "out": str(args.out.expanduser().resolve()),
        "streams": made.config.num_streams,
        "dtype": str(made.config.dtype).removeprefix("torch."),
        "weight_bytes": made.total_bytes,
        "weight_files": len(list(args.out.expanduser().glob("*.safetensors"))),
    }
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print(f"made     {report['out']}")
        print(f"streams  {report['streams']}")
        print(f"weights  {made.total_bytes / 1e9:.3g} GB, {report['dtype']}, in {report['weight_files']} file(s)")
        print(f"next     hidden-decoding inspect {args.out}")
    return 0
