"""`hidden-decoding eval`: the release's benchmarks on any engine, beside the published figures.

$ hidden-decoding eval base path/to/checkpoint --data path/to/data --suite gsm8k --limit 20
$ hidden-decoding eval report eval-runs/base
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hidden_decoding.cli.options import add_dataclass_arguments, from_arguments
from hidden_decoding.engines.local.engine_config import EngineConfig
from hidden_decoding.errors import ConfigError, DependencyError
from hidden_decoding.evaluate.settings import EvalConfig

if TYPE_CHECKING:
    from hidden_decoding.evaluate.models import ModelSpec
    from hidden_decoding.evaluate.report import Report

ENGINES = ("local", "vllm", "sglang")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Two tables and the report over their runs."""
    tables = parser.add_subparsers(dest="table", metavar="TABLE", required=True)
    for table, line in (
        ("base", "few-shot suites of base models"),
        ("instruct", "chat suites of instruct models, sampled as the release was"),
    ):
        one = tables.add_parser(table, help=line, description=line[0].upper() + line[1:] + ".")
        one.add_argument("model", metavar="MODEL", help="checkpoint directory, hub id, or URL of a server (URL#NAME)")
        one.add_argument("--revision", metavar="REV", help="branch, tag or commit, when MODEL is a hub id")
        one.add_argument("--compare", nargs="+", default=[], metavar="MODEL", help="more models, for the same table")
        one.add_argument("--control", metavar="MODEL", help="an n = 1 model, for a column of its own")
        one.add_argument("--engine", choices=ENGINES, default="local", help="what runs MODEL (default: local)")
        add_dataclass_arguments(one, EvalConfig)
        add_dataclass_arguments(one, EngineConfig, skip=("seed",))
        one.add_argument("--json", action="store_true", help="print the report as JSON")
        # Also after the table's name, where most people put them.
        one.add_argument("-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="no progress bars")
        one.add_argument("-v", "--verbose", action="count", default=argparse.SUPPRESS, help="more log lines")
    report = tables.add_parser(
        "report", help="one report over finished runs", description="One report over finished runs."
    )
    report.add_argument(
        "directories", nargs="+", type=Path, metavar="DIR", help="--out of an evaluation, or a model's part of it"
    )
    report.add_argument("--out", type=Path, metavar="DIR", help="write report.json, report.md and report.html there")
    report.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Runs a table, or merges runs; exit code 1 when answers failed."""
    from hidden_decoding.evaluate.report import find_results, make_reports

    if args.table == "report":
        reports = make_reports(find_results(args.directories))
        _show(reports, args.out, as_json=args.json)
        return 0
    try:
        directory = _evaluate(args)
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"evaluation needs {error.name}, which is not installed; run: pip install 'hidden-decoding[eval]'"
        ) from error
    reports = make_reports(find_results([directory]))
    _show(reports, directory, as_json=args.json)
    failed = any(
        result and result.get("failed") for report in reports for row in report.suites for result in row["results"]
    )
    return 1 if failed else 0


def _evaluate(args: argparse.Namespace) -> Path:
    """Asks every model; returns the directory of the run."""
    from hidden_decoding.evaluate.models import open_model
    from hidden_decoding.evaluate.pack import load_pack
    from hidden_decoding.evaluate.run import evaluate_model, prepare

    config, engine = from_arguments(EvalConfig, args), from_arguments(EngineConfig, args)
    pack = load_pack(args.table)
    progress = not (args.quiet or args.json)
    specs = _specs(args, config)
    directory = config.out or Path("eval-runs") / f"{args.table}-{specs[0].slug}"
    prepared = prepare(pack, config, progress=progress)
    for spec in specs:
        with open_model(spec, args.engine, config, engine) as opened:
            if spec.role == "control" and opened.asker.num_streams not in {1, None}:
                raise ConfigError(
                    f"--control {spec.name!r} has n = {opened.asker.num_streams}; a control is an n = 1 model"
                )
            evaluate_model(opened, pack, prepared, config, directory / spec.slug, progress=progress)
    return directory


def _specs(args: argparse.Namespace, config: EvalConfig) -> list[ModelSpec]:
    """The models in the order of their columns."""
    from hidden_decoding.evaluate.models import ModelSpec

    specs = [ModelSpec(name=args.model, revision=args.revision)]
    specs += [ModelSpec(name=name, role="compare") for name in args.compare]
    specs += [ModelSpec(name=args.control, role="control")] if args.control else []
    names = [spec.name for spec in specs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"{twice.pop()!r} is named twice; each model once")
    if config.base_url is not None and args.engine != "local":
        raise ConfigError(f"--engine {args.engine} starts a server of its own; leave it or --base-url out")
    return specs


def _show(reports: list[Report], directory: Path | None, *, as_json: bool) -> None:
    from hidden_decoding.evaluate.report_pages import html_page, markdown, screen

    content = json.dumps([report.as_json() for report in reports], indent=1, ensure_ascii=False)
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "report.json").write_text(content + "\n", encoding="utf-8")
        (directory / "report.md").write_text(markdown(reports), encoding="utf-8")
        (directory / "report.html").write_text(html_page(reports), encoding="utf-8")
    if as_json:
        print(content)
        return
    print("\n\n".join(screen(report) for report in reports))
    if directory is not None:
        print(f"report: {directory / 'report.html'}", file=sys.stderr)
