"""Where a suite's questions come from, and whether they are the published ones: counts and content hashes.

Contract: a `DataSource` gives a task its splits by the hub's name, from a local directory (`--data`) or the hub, and
says for each set what it is (`DataLabel`). A set that is missing or has been changed raises `ConfigError` naming the
set, what was seen and what to do. Used by `harness`.

    >>> DataSource(Path("data")).label("gsm8k").published
    True
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from hidden_decoding.errors import ConfigError
from hidden_decoding.evaluate.data_files import Row, adapt, read_rows

DOCS = "docs/evaluation.md"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way a set may lie in a directory. `expect` counts what differs from the published counts."""

    version: str
    reader: str
    splits: dict[str, str]
    expect: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """An entry of `packs/data_sets.yaml`; see there."""

    name: str
    title: str
    hub: str
    fields: list[str]
    asked: str
    counts: dict[str, int]
    files: list[Layout]
    sha256: str | None = None
    config: str | None = None
    subsets: int = 0


@dataclass(frozen=True, kw_only=True)
class DataLabel:
    """What was found: the report prints it. `published` decides whether published figures stand beside ours."""

    set: str
    source: str
    version: str
    published: bool
    questions: int
    sha256: str
    hash_known: bool


@functools.cache
def data_sets() -> dict[str, DataSet]:
    """All known sets by name."""
    text = (resources.files(__package__) / "packs" / "data_sets.yaml").read_text(encoding="utf-8")
    return {
        name: DataSet(**{**entry, "name": name, "files": [Layout(**layout) for layout in entry["files"]]})
        for name, entry in yaml.safe_load(text).items()
    }


def data_set_of(hub: str) -> DataSet:
    """The set that tasks know as `hub`."""
    return next(known for known in data_sets().values() if known.hub == hub)


def content_hash(rows: list[Row], fields: list[str]) -> str:
    """SHA-256 over the fields that prompts and scores are made of, row by row; the file format plays no part."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.get(name) for name in fields], ensure_ascii=True, sort_keys=True).encode())
        digest.update(b"\n")
    return digest.hexdigest()


class DataSource:
    """Splits of data sets, from `directory` or, without one, from the hub."""

    def __init__(self, directory: Path | None = None) -> None:
        if directory is not None and not directory.is_dir():
            raise ConfigError(f"--data {str(directory)!r} is not a directory; give the one that holds the data sets")
        # `HIDDEN_DECODING_DATA` and its like keep the benchmarks in a folder of their own.
        self.directory = directory / "eval" if directory is not None and (directory / "eval").is_dir() else directory
        self._splits: dict[tuple[str, str | None], dict[str, list[Row]]] = {}

    # ------------------------------------------------------------------------------------------------- for tasks

    def splits(self, name: str, subset: str | None) -> dict[str, list[Row]]:
        """Rows per split of one set (of one of its subsets), in the hub's schema."""
        key = (name, subset)
        if key not in self._splits:
            known = data_sets()[name]
            self._splits[key] = self._local(known, subset) if self.directory else self._hub(known, subset)
        return self._splits[key]

    def label(self, name: str, subsets: list[str | None]) -> DataLabel:
        """Checks counts and content over all subsets a suite uses; raises when a published set was changed."""
        known = data_sets()[name]
        # In the order of their names, whatever order the tasks have: the hash must not depend on it.
        parts = [self.splits(name, subset) for subset in sorted(subsets, key=str)]
        rows = [row for part in parts for row in part[known.asked]]
        layout = self._layout(known, subsets[0]) if self.directory else None
        version = layout.version if layout else "published"
        found = content_hash(rows, known.fields)
        if version == "published":
            expected = known.counts[known.asked]
            if len(rows) != expected or (known.sha256 and self.directory and found != known.sha256):
                version = f"not the published set: {len(rows):,} questions of {expected:,}" + (
                    "" if len(rows) != expected else ", and their content differs"
                )
        return DataLabel(
            set=known.title,
            source=str(layout.splits[known.asked]) if layout else f"hub: {known.hub}",
            version=version,
            published=version == "published",
            questions=len(rows),
            sha256=found,
            hash_known=found == known.sha256,
        )

    # --------------------------------------------------------------------------------------------------- local

    def _layout(self, known: DataSet, subset: str | None) -> Layout:
        assert self.directory is not None, "only asked for local data"
        for layout in (*known.files, *_generic(known)):
            wanted = [_file(self.directory, pattern, subset) for pattern in layout.splits.values()]
            if all(path.is_file() for path in wanted):
                return layout
        part = f" (subset {subset})" if subset and known.subsets else ""
        expected = "; or ".join(", ".join(sorted(set(layout.splits.values()))) for layout in known.files)
        raise ConfigError(
            f"{known.title}{part} is not in --data {self.directory}: it needs {expected} (from {known.hub}); put it "
            f"there, leave --data out to read it from the hub, or choose other suites with --suite; see {DOCS}"
        )

    def _local(self, known: DataSet, subset: str | None) -> dict[str, list[Row]]:
        layout = self._layout(known, subset)
        assert self.directory is not None, "only asked for local data"
        splits = {}
        for split, pattern in layout.splits.items():
            path = _file(self.directory, pattern, subset)
            splits[split] = adapt(layout.reader, read_rows(path), path, split, subset)
            if not splits[split] and not known.subsets:
                raise ConfigError(f"{path} holds no question of {known.title}; fetch it again")
        return splits

    # ----------------------------------------------------------------------------------------------------- hub

    def _hub(self, known: DataSet, subset: str | None) -> dict[str, list[Row]]:
        import datasets

        try:
            found = datasets.load_dataset(known.hub, name=subset or known.config)
        except Exception as error:  # the hub client raises dozens of kinds; each means the same here
            reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
            raise ConfigError(
                f"{known.title} cannot be read from the hub as {known.hub} ({reason}); go online, or give its files "
                f"with --data DIR (see {DOCS}), or choose other suites with --suite"
            ) from error
        return {split: [dict(row) for row in rows] for split, rows in found.items()}


def _generic(known: DataSet) -> list[Layout]:
    """NAME/SPLIT.jsonl or NAME/SUBSET/SPLIT.jsonl in the hub's schema, for any set."""
    middle = "{subset}/" if known.subsets else ""
    splits = {split: f"{known.name}/{middle}{split}.jsonl" for split in known.counts}
    return [Layout(version="published", reader="as_is", splits=splits)]


def _file(directory: Path, pattern: str, subset: str | None) -> Path:
    return directory / pattern.replace("{subset}", subset or "")


def rows_as_dataset(splits: dict[str, list[Row]]) -> Any:
    """What a task of the harness reads: one `datasets.Dataset` per split."""
    import datasets

    return {split: datasets.Dataset.from_list(rows) for split, rows in splits.items()}
