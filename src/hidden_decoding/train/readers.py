"""Files on disk -> documents of text: plain text, JSONL and Parquet, and what happens to a broken line.

Contract: `documents_in` yields the documents of one file in order. A line or row that is no document is named with its
file and number, and refused; a `Broken` that skips leaves it out instead, warns and counts. A Parquet file that cannot
be read further (cut off, damaged) is named with the first row that is lost. Directories are searched in sorted order.

Place in the flow: before `corpus.py`, which tokenises; `conversations.py` reads chats with its `parquet_rows`.

    >>> list(documents_in(Path("books.jsonl"), "text", Broken(skip=True)))
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from hidden_decoding.errors import ConfigError, DependencyError

JSONL_SUFFIXES = (".jsonl", ".ndjson")
PARQUET_SUFFIXES = (".parquet",)
TEXT_SUFFIXES = (".txt", ".md", ".rst", ".py")
SUFFIXES = JSONL_SUFFIXES + PARQUET_SUFFIXES + TEXT_SUFFIXES

log = logging.getLogger(__name__)


class Broken:
    """What to do with text that cannot be read: refuse it, or (`skip`) leave it out, warn and count."""

    def __init__(self, *, skip: bool = False) -> None:
        self.skip = skip
        self.count = 0

    def found(self, file: Path | str, place: str, what: str, cause: Exception | None = None) -> None:
        """Reports one broken place; raises `ConfigError` unless broken text is skipped."""
        if not self.skip:
            raise ConfigError(
                f"{file}, {place}: {what}; mend the file, or leave such text out with --on-broken skip"
            ) from cause
        self.count += 1
        log.warning("left out %s, %s: %s", file, place, what)


def find_files(paths: Iterable[str]) -> list[Path]:
    """The files behind `paths`, directories searched in sorted order; refuses what is not there or holds no text."""
    return [file for path in paths for file in _files_of(Path(path))]


def _files_of(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ConfigError(
            f"no file or directory {path}: give text, JSONL or Parquet files, or directories of them (PATH=WEIGHT)"
        )
    inside = [file for file in sorted(path.rglob("*")) if file.suffix in SUFFIXES]
    if not inside:
        raise ConfigError(f"directory {path} holds no text: looked for files ending in {', '.join(SUFFIXES)}")
    return inside


def documents_in(file: Path, text_key: str, broken: Broken) -> Iterator[str]:
    """The documents of one file; empty ones are left out."""
    if file.suffix in JSONL_SUFFIXES:
        texts = _jsonl(file, text_key, broken)
    elif file.suffix in PARQUET_SUFFIXES:
        texts = _parquet(file, text_key, broken)
    else:
        texts = iter([file.read_text(encoding="utf-8", errors="replace")])
    return (text for text in texts if text.strip())


def _jsonl(file: Path, text_key: str, broken: Broken) -> Iterator[str]:
    with file.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            place, shown = f"line {number}", repr(line.strip()[:80])
            try:
                text = json.loads(line)[text_key]
            except KeyError as error:
                broken.found(file, place, f"has no key {text_key!r} (--text-key): {shown}", error)
            except (json.JSONDecodeError, TypeError) as error:
                broken.found(file, place, f"is not a JSON object: {shown}", error)
            else:
                if isinstance(text, str):
                    yield text
                else:
                    broken.found(file, place, f"{text_key!r} is {type(text).__name__}, not text (--text-key)")


def _parquet(file: Path, text_key: str, broken: Broken) -> Iterator[str]:
    """The text column; a missing column is a mistake of the settings and always refused."""

    def needed(names: list[str]) -> list[str]:
        if text_key not in names:
            raise ConfigError(f"{file}: has no column {text_key!r} (--text-key); it has {', '.join(names)}")
        return [text_key]

    for place, row in parquet_rows(file, broken, needed):
        text = row[text_key]
        if isinstance(text, str):
            yield text
        else:
            broken.found(file, place, f"{text_key!r} is {type(text).__name__}, not text (--text-key)")


def parquet_rows(
    file: Path, broken: Broken, needed: Callable[[list[str]], list[str]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of a Parquet file, a batch at a time, with the columns that `needed` picks of those it has."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DependencyError(
            f"{file} needs pyarrow to be read; install it with: pip install 'hidden-decoding[train]'"
        ) from error
    number = 1
    try:
        with parquet.ParquetFile(file) as opened:
            columns = needed(list(opened.schema_arrow.names))
            for batch in opened.iter_batches(batch_size=1024, columns=columns):
                for row in batch.to_pylist():
                    yield f"row {number}", row
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        broken.found(
            file, f"row {number} and all after it", f"the Parquet file is cut off or damaged ({reason})", error
        )
