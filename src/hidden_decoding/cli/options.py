"""Command-line flags from a configuration dataclass, so that defaults and help are written once.

A field `kv_cache_memory_bytes: int = field(default=..., metadata={"help": "...", "choices": (...)})` becomes
`--kv-cache-memory-bytes`. Fields with `metadata={"flag": False}` stay out. Loads only the standard library.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import types
import typing
from typing import Any, TypeVar

from hidden_decoding.errors import ConfigError

T = TypeVar("T")


def _scalar_type(annotation: Any) -> Any:
    """`int | None` -> int; a plain type stays."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next(member for member in typing.get_args(annotation) if member is not type(None))
    return annotation


def add_trust_remote_code(parser: argparse.ArgumentParser) -> None:
    """The flag other tools need for these checkpoints, so that their command lines work here."""
    text = "accepted and unused: Python in a checkpoint is never run"
    parser.add_argument("--trust-remote-code", action="store_true", help=text)


def add_dataclass_arguments(
    parser: argparse.ArgumentParser, cls: type, *, skip: tuple[str, ...] = (), only_given: bool = False
) -> None:
    """Adds one flag per field of the dataclass `cls`; help texts end with the default.

    With `only_given` a flag that is not on the command line parses to None, so that other defaults (a checkpoint's own)
    can come before the dataclass's; see `from_arguments(defaults=...)`.
    """
    hints = typing.get_type_hints(cls)
    group = parser.add_argument_group(f"{cls.__name__}")
    for field in dataclasses.fields(cls):
        if field.name in skip or field.metadata.get("flag") is False:
            continue
        kind = _scalar_type(hints[field.name])
        flag = "--" + field.name.replace("_", "-")
        default = field.default if field.default is not dataclasses.MISSING else None
        parsed_default = None if only_given else default
        shown = "" if default in (None, (), "") else f" (default: {default})"
        text = (field.metadata.get("help", "") + shown).replace("%", "%%")
        if kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=parsed_default, help=text)
        elif typing.get_origin(kind) in (tuple, list):
            element = typing.get_args(kind)[0]
            group.add_argument(flag, type=element, action="append", default=None, help=text)
        else:
            choices = field.metadata.get("choices")
            metavar = None if choices else field.metadata.get("metavar", kind.__name__.upper())
            group.add_argument(flag, type=kind, choices=choices, default=parsed_default, metavar=metavar, help=text)


def from_arguments(
    cls: type[T], args: argparse.Namespace, *, defaults: dict[str, Any] | None = None, **fixed: Any
) -> T:
    """Builds the dataclass from parsed flags: `defaults`, then flags that were given, then `fixed`."""
    values = dict(defaults or {})
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if (value := getattr(args, field.name, None)) is not None:
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return cls(**{**values, **fixed})


def from_mapping(cls: type[T], values: dict[str, Any], *, where: str) -> T:
    """Builds the dataclass from a mapping (a run file); an unknown key is refused with the nearest known name."""
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(known)}"
            raise ConfigError(f"{where}: unknown key {key!r}{hint}")
    return cls(**values)
