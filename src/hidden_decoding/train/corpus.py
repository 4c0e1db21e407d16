"""Text on disk -> documents of token ids on disk.

Contract: reads text files (one document each), JSONL (one document a line) and directories of both; every document
ends with the tokenizer's end token. The result is a flat array of ids and the offsets of its documents, memory-mapped,
in a cache directory named by the hash of the text, the tokenizer and the way of reading, so that it is made once and
big texts never lie in memory. Written to a temporary directory and renamed: what has the final name is complete.

Place in the flow: before `data.py`, which packs documents into rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from hidden_decoding.errors import ConfigError

JSONL_SUFFIXES = (".jsonl", ".ndjson")
TEXT_SUFFIXES = (".txt", ".md", ".rst", ".py")
PIECE_CHARACTERS = 1 << 18  # of a long document per call of the tokenizer, cut at a line end
READING = "1"  # part of the cache key: raise it when the same files would give other ids


@dataclass(frozen=True)
class Corpus:
    """Documents as one flat array of ids: document d is `ids[offsets[d] : offsets[d + 1]]`, its end token included."""

    ids: np.ndarray[Any, Any]
    offsets: np.ndarray[Any, Any]
    text_bytes: np.ndarray[Any, Any]
    key: str
    end_token: int

    @property
    def documents(self) -> int:
        """How many documents there are."""
        return len(self.offsets) - 1

    @property
    def tokens(self) -> int:
        """How many tokens they hold, end tokens included."""
        return int(self.offsets[-1])

    def lengths(self) -> np.ndarray[Any, Any]:
        """Tokens of each document."""
        return np.diff(self.offsets)


def find_files(paths: Iterable[str]) -> list[Path]:
    """The files behind `paths`, directories searched in sorted order; refuses what is not there or holds no text."""
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_file():
            found.append(path)
        elif path.is_dir():
            inside = [file for file in sorted(path.rglob("*")) if file.suffix in JSONL_SUFFIXES + TEXT_SUFFIXES]
            if not inside:
                endings = ", ".join(JSONL_SUFFIXES + TEXT_SUFFIXES)
                raise ConfigError(f"directory {path} holds no text: looked for files ending in {endings}")
            found.extend(inside)
        else:
            raise ConfigError(f"no file or directory {path}: give text files, JSONL files or directories of them")
    return found


def load_corpus(
    paths: Iterable[str], tokenizer: Any, cache_dir: Path, *, text_key: str = "text", progress: bool = False
) -> Corpus:
    """The tokenised documents of `paths`, from the cache or made now."""
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            "the tokenizer has no end token, and documents are told apart by it; set eos_token in its config"
        )
    files = find_files(paths)
    key = _key(files, tokenizer, text_key)
    directory = cache_dir / key
    if not (directory / "corpus.json").is_file():
        _write_corpus(files, tokenizer, text_key, directory, progress)
    about = json.loads((directory / "corpus.json").read_text(encoding="utf-8"))
    if not about["tokens"]:
        raise ConfigError(f"no text in {', '.join(str(file) for file in files[:3])}: every document is empty")
    ids = np.memmap(directory / "ids.bin", dtype=about["dtype"], mode="r")
    return Corpus(
        ids=ids,
        offsets=np.load(directory / "offsets.npy", mmap_mode="r"),
        text_bytes=np.load(directory / "text_bytes.npy", mmap_mode="r"),
        key=key,
        end_token=tokenizer.eos_token_id,
    )


def documents_in(file: Path, text_key: str) -> Iterator[str]:
    """The documents of one file; empty ones are left out."""
    if file.suffix not in JSONL_SUFFIXES:
        text = file.read_text(encoding="utf-8", errors="replace")
        if text.strip():
            yield text
        return
    with file.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)[text_key]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                what = (
                    f"has no key {text_key!r} (--text-key)" if isinstance(error, KeyError) else "is not a JSON object"
                )
                raise ConfigError(f"{file}, line {number}: {what}: {line.strip()[:80]!r}") from error
            if not isinstance(text, str):
                raise ConfigError(
                    f"{file}, line {number}: {text_key!r} is {type(text).__name__}, not text (--text-key)"
                )
            if text.strip():
                yield text


def _key(files: list[Path], tokenizer: Any, text_key: str) -> str:
    """Hash of all that decides the ids: the files' bytes and kinds, the tokenizer, the key."""
    digest = hashlib.sha256(f"{READING} {text_key} {tokenizer.eos_token_id} {len(tokenizer)}".encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    digest.update(vocabulary.encode())
    for file in files:
        with file.open("rb") as opened:
            digest.update(f"{file.suffix in JSONL_SUFFIXES}".encode())
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:24]


def _write_corpus(files: list[Path], tokenizer: Any, text_key: str, directory: Path, progress: bool) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=directory.parent))
    try:
        kind = np.uint16 if len(tokenizer) <= np.iinfo(np.uint16).max else np.uint32
        offsets, text_bytes = array("q", [0]), array("q")
        tokens = document_bytes = 0
        with (partial / "ids.bin").open("wb") as sink, _bar(files, progress) as bar:
            for pieces in _batches(_pieces(files, text_key)):
                for (text, ends), ids in zip(pieces, _encode(tokenizer, [text for text, _ in pieces]), strict=True):
                    marked = [*ids, tokenizer.eos_token_id] if ends else ids
                    sink.write(np.asarray(marked, dtype=kind).tobytes())
                    size = len(text.encode("utf-8", errors="replace"))
                    tokens, document_bytes = tokens + len(marked), document_bytes + size
                    bar.update(size)
                    if ends:
                        offsets.append(tokens)
                        text_bytes.append(document_bytes)
                        document_bytes = 0
        np.save(partial / "offsets.npy", np.asarray(offsets, dtype=np.int64))
        np.save(partial / "text_bytes.npy", np.asarray(text_bytes, dtype=np.int64))
        about = {"tokens": tokens, "documents": len(text_bytes), "dtype": np.dtype(kind).name}
        (partial / "corpus.json").write_text(json.dumps(about), encoding="utf-8")
        _publish(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _publish(partial: Path, directory: Path) -> None:
    try:
        os.rename(partial, directory)  # noqa: PTH104 - Path.rename would hide that this is one system call
    except OSError:
        if not (directory / "corpus.json").is_file():  # another process with the same text may have been first
            raise


def _bar(files: list[Path], progress: bool) -> Any:
    total = sum(file.stat().st_size for file in files)
    return tqdm(total=total, unit="B", unit_scale=True, desc="tokenising", disable=not progress, leave=False)


def _encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def _pieces(files: list[Path], text_key: str) -> Iterator[tuple[str, bool]]:
    """(text, whether a document ends with it). Long documents are cut, after a line end."""
    for file in files:
        for text in documents_in(file, text_key):
            start = 0
            while start < len(text):
                end = text.find("\n", start + PIECE_CHARACTERS) + 1 or len(text)
                yield text[start:end], end == len(text)
                start = end


def _batches(pieces: Iterator[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    """Pieces for one call of the tokenizer, which works on them in parallel."""
    batch, characters = [], 0
    for piece in pieces:
        batch.append(piece)
        characters += len(piece[0])
        if characters >= 4 * PIECE_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
