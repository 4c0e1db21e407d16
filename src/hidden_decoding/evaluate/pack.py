"""A pack: the suites of one table of the release, read from versioned YAML.

Contract: plain data; a pack's content hash goes into every result, so two figures are comparable when their hashes are.
Loads no torch and no harness. Used by `run` and by the command line.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import yaml

from hidden_decoding.errors import ConfigError

TABLES = ("base", "instruct")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One row of the table: which tasks, how they are asked and scored, and the published figures (percent)."""

    name: str
    title: str
    about: str
    data: str
    folders: list[str]
    tasks: list[str]
    shots: int
    scorer: dict[str, Any]
    published: list[float]
    max_answer_tokens: int = 0
    samples: int = 1
    judged: bool = False
    system: str | None = None
    harness_metrics: bool = False
    unresolved: bool = False
    stops: list[str] | None = None
    override: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def by_likelihood(self) -> bool:
        """Whether answers are scored by their likelihood; else the model writes them."""
        return bool(self.scorer["kind"] == "loglikelihood")


@dataclass(frozen=True, kw_only=True)
class Pack:
    """One table: its suites, how they are sampled, and the published columns."""

    version: int
    table: str
    chat: bool
    columns: list[str]
    sampling: dict[str, float]
    suites: list[Suite]
    sha256: str

    def chosen(self, names: tuple[str, ...]) -> list[Suite]:
        """The suites named, in the pack's order; all without names. `ConfigError` for one that is not there."""
        known = [suite.name for suite in self.suites]
        if unknown := [name for name in names if name not in known]:
            raise ConfigError(f"--suite {unknown[0]!r} is not in the {self.table} table; it has {', '.join(known)}")
        return [suite for suite in self.suites if not names or suite.name in names]


@functools.cache
def load_pack(table: str) -> Pack:
    """The pack of `base` or `instruct`."""
    text = (resources.files(__package__) / "packs" / f"{table}.yaml").read_text(encoding="utf-8")
    raw = yaml.safe_load(text)
    most = raw.pop("max_answer_tokens", 0)
    suites = [Suite(**{"max_answer_tokens": most, **entry}) for entry in raw.pop("suites")]
    return Pack(**raw, suites=suites, sha256=hashlib.sha256(text.encode()).hexdigest())
