"""Settings of a run's text: which sources in which shares, what is held out, how documents become rows of tokens.

Contract: a value of the wrong kind or an impossible mixture is a `ConfigError` at construction. A source is a path, or
`PATH=WEIGHT`; a run file may also write `{path: ..., weight: ...}`. Part of `config.py`; loads only the standard
library.

    >>> DataSettings(data=("books=3", "code=1")).sources()
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field
from typing import Any

from hidden_decoding.errors import ConfigError
from hidden_decoding.train.sections import Section

HUB = "hub:"


def _source_text(entry: Any) -> Any:
    """`{path: books, weight: 2}` of a run file as `books=2`; anything else as it is."""
    if not isinstance(entry, dict):
        return entry
    for key in entry:
        if key not in ("path", "weight"):
            near = difflib.get_close_matches(str(key), ("path", "weight"), n=1)
            hint = f"did you mean {near[0]!r}?" if near else "known keys: path, weight"
            raise ConfigError(f"data: unknown key {key!r} in {entry!r}; {hint}")
    if not isinstance(entry.get("path"), str):
        raise ConfigError(f"data: {entry!r} has no path")
    return f"{entry['path']}={entry['weight']}" if "weight" in entry else entry["path"]


def _source(entry: str) -> tuple[str, float | None]:
    """`books=2` -> ("books", 2.0); a path without a weight, even one that holds `=`, has None."""
    path, sign, text = entry.rpartition("=")
    try:
        weight = float(text) if sign and path else None
    except ValueError:
        weight = None
    if weight is None:
        return entry, None
    if not 0 < weight < math.inf:
        raise ConfigError(f"data is {entry!r}; the weight after = must be above 0")
    return path, weight


@dataclass(frozen=True, kw_only=True)
class DataSettings(Section):
    """Which text is read, and how documents become rows of tokens."""

    data: tuple[str, ...] = field(
        default=(),
        metadata={
            "needed": "at least one file or directory (--data)",
            "help": "text, JSONL or Parquet files, or directories of them; PATH=WEIGHT mixes by shares of tokens",
            "metavar": "PATH",
        },
    )
    heldout: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "held-out text for evaluation; without it documents of --data are set aside",
            "metavar": "PATH",
        },
    )
    heldout_fraction: float = field(
        default=0.01, metadata={"help": "share of --data's tokens set aside, by whole documents; 0 evaluates nothing"}
    )
    text_key: str = field(default="text", metadata={"help": "key of the text in JSONL lines, column in Parquet"})
    on_broken: str = field(
        default="stop",
        metadata={"help": "a line or row that is no text: name it and stop, or skip it", "choices": ("stop", "skip")},
    )
    tokens_per_sequence: int = field(
        default=2048, metadata={"least": 2, "help": "tokens in a packed row; the model reads n times as many positions"}
    )
    cache_dir: str | None = field(
        default=None,
        metadata={"help": "where tokenised text is kept between runs; by default inside --out", "metavar": "DIR"},
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "read --data while training, through datasets, instead of tokenising all of it first; also of a "
            "hub, as hub:NAME[:CONFIG[:SPLIT]]"
        },
    )
    lanes: int = field(
        default=8,
        metadata={"least": 1, "help": "parts a streamed source is dealt to; a multiple of the number of processes"},
    )
    data_seed: int = field(default=0, metadata={"least": 0, "help": "order of documents, and which ones are held out"})
    skip_sequences: int = field(
        default=0,
        metadata={"least": 0, "help": "packed rows to pass over first: those another run has read in this order"},
    )

    def __post_init__(self) -> None:
        if isinstance(self.data, list | tuple):  # a run file may say {path: ..., weight: ...}
            object.__setattr__(self, "data", tuple(_source_text(entry) for entry in self.data))
        super().__post_init__()
        self.sources()

    def sources(self) -> tuple[tuple[str, float | None], ...]:
        """(path, weight) of each entry of `data`; all have a weight (shares of tokens, adding up to 1), or none has."""
        parted = [_source(entry) for entry in self.data]
        weights = [weight for _, weight in parted if weight is not None]
        if not weights:
            return tuple(parted)
        if len(weights) < len(parted):
            bare = next(path for path, weight in parted if weight is None)
            raise ConfigError(
                f"data is {self.data!r}; {bare} has no weight: give every entry one (PATH=WEIGHT) or none"
            )
        return tuple((path, float(weight or 0) / sum(weights)) for path, weight in parted)

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return {
            "heldout_fraction": (0 <= self.heldout_fraction < 1, "from 0 to below 1"),
            "heldout": (
                not self.streaming or bool(self.heldout) or self.heldout_fraction == 0,
                "files of their own where --data is streamed, or evaluation off with --heldout-fraction 0",
            ),
            "streaming": (
                self.streaming or not any(path.startswith(HUB) for path, _ in self.sources()),
                "on for data of a hub (--streaming)",
            ),
        }
