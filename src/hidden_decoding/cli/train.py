"""`hidden-decoding train cpt`: continued pretraining from a run file, flags, or both (flags win).

$ hidden-decoding train cpt -c recipes/cpt-small.yaml --model base-n2 --data books/ --out runs/books-n2
$ torchrun --nproc-per-node 2 --no-python hidden-decoding train cpt -c run.yaml
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hidden_decoding.cli.options import add_dataclass_arguments, from_mapping
from hidden_decoding.errors import ConfigError
from hidden_decoding.train.config import SECTIONS, CptConfig

if TYPE_CHECKING:
    from hidden_decoding.train.loop import CptResult

LIST_FIELDS = ("data", "heldout")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The kinds of training and their flags."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    line = "continued pretraining on text"
    cpt = kinds.add_parser("cpt", help=line, description=line.capitalize() + ". Lengths and counts are in tokens.")
    hidden = argparse.SUPPRESS
    cpt.add_argument("-v", "--verbose", action="count", default=hidden, help="more log lines on standard error")
    cpt.add_argument("-q", "--quiet", action="store_true", default=hidden, help="no log lines and no progress bars")
    cpt.add_argument("-c", "--config", metavar="RUN.yaml", help="run file with sections " + ", ".join(SECTIONS))
    cpt.add_argument("--json", action="store_true", help="the result as JSON on standard output")
    for section in SECTIONS.values():
        # Only flags that were given count: the rest comes from the run file, then from the dataclasses.
        add_dataclass_arguments(cpt, section, skip=LIST_FIELDS, only_given=True)
        for field in dataclasses.fields(section):
            if field.name in LIST_FIELDS:
                text = field.metadata["help"]
                cpt.add_argument(f"--{field.name}", nargs="+", metavar=field.metadata["metavar"], help=text)


def run(args: argparse.Namespace) -> int:
    """Trains, then prints what came of it."""
    config = configuration(args)

    from transformers.utils import logging as transformers_logging

    from hidden_decoding.train.loop import train_cpt

    transformers_logging.disable_progress_bar()  # ours shows the training
    result = train_cpt(config, progress=not args.quiet)
    if result.records:  # only the first process has them
        print(json.dumps(summary(result)) if args.json else describe(result))
    return 0


def configuration(args: argparse.Namespace) -> CptConfig:
    """The run file's settings with the flags over them."""
    values = read_run_file(Path(args.config)) if args.config else {name: {} for name in SECTIONS}
    for name, section in SECTIONS.items():
        given = {f.name: getattr(args, f.name) for f in dataclasses.fields(section)}
        values[name] |= {key: value for key, value in given.items() if value is not None}
    where = args.config or "flags"
    return CptConfig(**{name: from_mapping(SECTIONS[name], values[name], where=where) for name in SECTIONS})


def read_run_file(path: Path) -> dict[str, dict[str, Any]]:
    """The sections of a YAML run file; unknown ones are refused with the nearest name."""
    import yaml

    try:
        parsed = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"no run file {path}; recipes/ holds examples to copy") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"run file {path} cannot be read: {error}") from error
    if not isinstance(parsed, dict):
        raise ConfigError(f"run file {path} holds no sections; it needs {', '.join(SECTIONS)}")
    for name, section in parsed.items():
        if name not in SECTIONS:
            near = difflib.get_close_matches(str(name), SECTIONS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known sections: {', '.join(SECTIONS)}"
            raise ConfigError(f"{path}: unknown section {name!r}; {hint}")
        if section is not None and not isinstance(section, dict):
            raise ConfigError(f"{path}: section {name!r} is {section!r}; it must hold keys and values")
    return {name: dict(parsed.get(name) or {}) for name in SECTIONS}


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
