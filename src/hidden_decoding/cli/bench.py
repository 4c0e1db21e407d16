"""`hidden-decoding bench`: how fast the engine is in this process (`offline`), or any server is under load (`serve`).

$ hidden-decoding bench serve --base-url http://127.0.0.1:8080/v1 --num-prompts 50 --max-concurrency 8
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from hidden_decoding.bench.serving import LoadConfig
from hidden_decoding.bench.workload import WorkloadConfig
from hidden_decoding.cli.options import add_dataclass_arguments, from_arguments
from hidden_decoding.engines.local.engine_config import EngineConfig
from hidden_decoding.modeling.hub import resolve_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Two benches, each with flags from its dataclasses."""
    benches = parser.add_subparsers(dest="bench", metavar="BENCH", required=True)
    offline = benches.add_parser("offline", help="the local engine in this process", description=__doc__)
    offline.add_argument("model", metavar="MODEL", help="checkpoint directory or hub id")
    add_dataclass_arguments(offline, WorkloadConfig)
    # The workload's seed is the bench's; greedy decoding leaves the engine's without effect.
    add_dataclass_arguments(offline, EngineConfig, skip=("seed",))
    serve = benches.add_parser("serve", help="any OpenAI-compatible server", description=__doc__)
    add_dataclass_arguments(serve, LoadConfig)
    add_dataclass_arguments(serve, WorkloadConfig)
    for bench in (offline, serve):
        bench.add_argument("--out", type=Path, metavar="FILE", help="write the whole report as JSON")
        bench.add_argument("--json", action="store_true", help="print the report as JSON (without per-request lists)")


def run(args: argparse.Namespace) -> int:
    """Runs one bench; exit code 1 when requests failed."""
    report = _offline(args) if args.bench == "offline" else _serve(args)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    summary = {key: value for key, value in report.items() if not isinstance(value, list)}
    if args.json:
        print(json.dumps(summary))
    else:
        for key, value in summary.items():
            print(f"{key:>28}  {value:.2f}" if isinstance(value, float) else f"{key:>28}  {value}")
    if report.get("failed"):
        print(next(error for error in report["errors"] if error), file=sys.stderr)
    return 1 if report.get("failed") else 0


def _offline(args: argparse.Namespace) -> dict[str, Any]:
    workload, config = from_arguments(WorkloadConfig, args), from_arguments(EngineConfig, args)
    directory = resolve_model(args.model)  # before torch is loaded

    from hidden_decoding.bench.offline import run_offline
    from hidden_decoding.engines.local.engine import LocalEngine

    return run_offline(LocalEngine(directory, config), workload, progress=not (args.quiet or args.json))


def _serve(args: argparse.Namespace) -> dict[str, Any]:
    import asyncio

    from hidden_decoding.bench.serving import run_load

    load, workload = from_arguments(LoadConfig, args), from_arguments(WorkloadConfig, args)
    return asyncio.run(run_load(load, workload, progress=not (args.quiet or args.json)))
