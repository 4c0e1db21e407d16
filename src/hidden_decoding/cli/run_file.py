"""Run files of `train`: YAML with one section per component, and flags that win over it.

Contract: flags derive from the sections' dataclasses. A section or key that is unknown is refused with the nearest
name, before anything else is read. Shared by `train cpt`, `train sft` and `train plan`; loads no torch.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import typing
from pathlib import Path
from typing import Any

from hidden_decoding.cli.options import add_dataclass_arguments, from_mapping
from hidden_decoding.errors import ConfigError

Sections = dict[str, type[Any]]
STAGES = "stages"


def add_run_arguments(parser: argparse.ArgumentParser, sections: Sections) -> None:
    """`-c RUN.yaml`, `--json`, and one flag per field of the sections."""
    hidden = argparse.SUPPRESS
    parser.add_argument("-v", "--verbose", action="count", default=hidden, help="more log lines on standard error")
    parser.add_argument("-q", "--quiet", action="store_true", default=hidden, help="no log lines and no progress bars")
    parser.add_argument("-c", "--config", metavar="RUN.yaml", help="run file with sections " + ", ".join(sections))
    parser.add_argument("--json", action="store_true", help="the result as JSON on standard output")
    for section in sections.values():
        hints = typing.get_type_hints(section)
        lists = tuple(name for name, hint in hints.items() if typing.get_origin(hint) is tuple)
        # Only flags that were given count: the rest comes from the run file, then from the dataclasses.
        add_dataclass_arguments(parser, section, skip=lists, only_given=True)
        for field in dataclasses.fields(section):
            if field.name in lists:
                text, metavar = field.metadata["help"], field.metadata["metavar"]
                parser.add_argument(f"--{field.name.replace('_', '-')}", nargs="+", metavar=metavar, help=text)


def built_sections(args: argparse.Namespace, sections: Sections) -> dict[str, Any]:
    """Each section's dataclass: the run file's values with the flags over them."""
    parsed = read_run_file(Path(args.config), [*sections]) if args.config else {}
    return _built(args, sections, checked_sections(parsed, sections, args.config))


def built_stages(args: argparse.Namespace, sections: Sections) -> list[dict[str, Any]]:
    """The same for each of the run file's `stages`: its values over the file's own, and flags over both.

    Empty where the file has no stages.
    """
    if not args.config:
        return []
    parsed = read_run_file(Path(args.config), [*sections, STAGES])
    stages = parsed.pop(STAGES, None) or []
    shared = checked_sections(parsed, sections, args.config)
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise ConfigError(f"{args.config}: stages is {stages!r}; it must be a list of sections to change, one a stage")
    built = []
    for number, stage in enumerate(stages, start=1):
        changes = checked_sections(stage, sections, f"{args.config}, stage {number}")
        built.append(_built(args, sections, {name: {**shared[name], **changes[name]} for name in sections}))
    return built


def _built(args: argparse.Namespace, sections: Sections, values: dict[str, dict[str, Any]]) -> dict[str, Any]:
    for name, section in sections.items():
        given = {f.name: getattr(args, f.name, None) for f in dataclasses.fields(section)}
        values[name] |= {key: value for key, value in given.items() if value is not None}
    where = args.config or "flags"
    return {name: from_mapping(section, values[name], where=where) for name, section in sections.items()}


def read_run_file(path: Path, known: list[str]) -> dict[str, Any]:
    """What a YAML run file holds; sections that are not known are refused with the nearest name."""
    import yaml

    try:
        parsed: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"no run file {path}; recipes/ holds examples to copy") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"run file {path} cannot be read: {error}") from error
    if not isinstance(parsed, dict):
        raise ConfigError(f"run file {path} holds no sections; it needs {', '.join(known)}")
    _refuse_unknown(parsed, known, str(path))
    return parsed


def checked_sections(parsed: dict[str, Any], sections: Sections, where: str) -> dict[str, dict[str, Any]]:
    """Keys and values of every section; those left out are empty."""
    _refuse_unknown(parsed, [*sections], where)
    for name, section in parsed.items():
        if section is not None and not isinstance(section, dict):
            raise ConfigError(f"{where}: section {name!r} is {section!r}; it must hold keys and values")
    return {name: dict(parsed.get(name) or {}) for name in sections}


def _refuse_unknown(parsed: dict[str, Any], known: list[str], where: str) -> None:
    for name in parsed:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known sections: {', '.join(known)}"
            raise ConfigError(f"{where}: unknown section {name!r}; {hint}")
