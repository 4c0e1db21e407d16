"""What every section of a run's settings shares: fields of the annotated kind, choices, and limits that name the value.

Contract: a dataclass derived from `Section` brings each field to its kind at construction, or raises `ConfigError`. A
field's metadata may hold `choices`, `least` and `most` (its lowest and highest number), `above` (a number it must be
above) and `needed` (what to give where it must not be empty); None passes. `_rules` adds limits that take more to tell.
Loads only the standard library; used by `config.py`.

    >>> ScheduleSettings(steps="1e3").steps
    1000
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from hidden_decoding.errors import ConfigError


def _typed(name: str, value: Any, annotation: Any) -> Any:
    """`value` as the annotated kind; text that is a number counts as one (YAML reads `1e-3` as text)."""
    members = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if value is None and type(None) in members:
        return None
    kind = next(member for member in members if member is not type(None))
    if typing.get_origin(kind) is tuple:
        items = (value,) if isinstance(value, str) else value
        if isinstance(items, list | tuple) and all(isinstance(item, str) for item in items):
            return tuple(items)
    elif kind is bool or isinstance(value, bool):
        if kind is bool and isinstance(value, bool):
            return value
    elif kind is str:
        if isinstance(value, str):
            return value
    elif isinstance(value, int | float | str):
        try:
            return _number(value, kind)
        except ValueError:
            pass
    wanted = getattr(kind, "__name__", "list of texts") if typing.get_origin(kind) is None else "list of texts"
    raise ConfigError(f"{name} is {value!r}; it must be of kind {wanted}")


def _number(value: float | str, kind: type) -> Any:
    number = float(value)
    if kind is int:
        if number != int(number):
            raise ValueError("not whole")
        return int(value) if isinstance(value, int) else int(number)
    return number


def _limit(value: Any, metadata: Mapping[str, Any]) -> str | None:
    """What the value must be, where it is beyond a limit that the field's metadata names."""
    if not value and "needed" in metadata:
        return str(metadata["needed"])
    if value is None:
        return None
    if "above" in metadata and not value > metadata["above"]:
        return f"above {metadata['above']}"
    least, most = metadata.get("least"), metadata.get("most")
    if (least is None or value >= least) and (most is None or value <= most):
        return None
    if most is not None:
        return f"from {least} to {most}"
    return f"a whole number from {least}" if isinstance(value, int) else f"{least} or more"


class Section:
    """Brings each field of a dataclass to its annotated kind, then checks it."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for entry in dataclasses.fields(self):  # type: ignore[arg-type]
            value = _typed(entry.name, getattr(self, entry.name), hints[entry.name])
            object.__setattr__(self, entry.name, value)
            if (choices := entry.metadata.get("choices")) and value not in (None, *choices):
                raise ConfigError(f"{entry.name} is {value!r}; it must be one of {', '.join(choices)}")
            if (allowed := _limit(value, entry.metadata)) is not None:
                raise ConfigError(f"{entry.name} is {value!r}; it must be {allowed}")
        for name, (fine, allowed) in self._rules().items():
            if not fine:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be {allowed}")

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return {}
