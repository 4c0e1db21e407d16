"""Text on disk -> documents of token ids on disk.

Contract: reads text files (one document each), JSONL and Parquet (one document a line or row) and directories of
them; every document ends with the tokenizer's end token. The result is a flat array of ids and the offsets of its
documents, memory-mapped, in a cache directory named by the hash of the text, the tokenizer and the way of reading, so
that it is made once and big texts never lie in memory. Written to a temporary directory and renamed: what has the
final name is complete.

Place in the flow: after `readers.py` and before `data.py`, which packs documents into rows.
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
from hidden_decoding.train.readers import JSONL_SUFFIXES, PARQUET_SUFFIXES, Broken, documents_in, find_files

KINDS = {"jsonl": JSONL_SUFFIXES, "parquet": PARQUET_SUFFIXES}
PIECE_CHARACTERS = 1 << 18  # of a long document per call of the tokenizer, cut at a line end
READING = "2"  # part of the cache key: raise it when the same files would give other ids


@dataclass(frozen=True)
class Corpus:
    """Documents as one flat array of ids: document d is `ids[offsets[d] : offsets[d + 1]]`, its end token included.

    `file_documents` counts the documents of each file in order; `broken` the lines and rows that were left out.
    """

    ids: np.ndarray[Any, Any]
    offsets: np.ndarray[Any, Any]
    text_bytes: np.ndarray[Any, Any]
    key: str
    end_token: int
    file_documents: tuple[int, ...] = ()
    broken: int = 0

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


def load_corpus(
    paths: Iterable[str],
    tokenizer: Any,
    cache_dir: Path,
    *,
    text_key: str = "text",
    skip_broken: bool = False,
    progress: bool = False,
) -> Corpus:
    """The tokenised documents of `paths`, from the cache or made now."""
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            "the tokenizer has no end token, and documents are told apart by it; set eos_token in its config"
        )
    files = find_files(paths)
    key = _key(files, tokenizer, text_key, skip_broken)
    directory = cache_dir / key
    if not (directory / "corpus.json").is_file():
        _write_corpus(files, tokenizer, text_key, directory, Broken(skip=skip_broken), progress)
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
        file_documents=tuple(about["file_documents"]),
        broken=about["broken"],
    )


def _key(files: list[Path], tokenizer: Any, text_key: str, skip_broken: bool) -> str:
    """Hash of all that decides the ids: the files' bytes and kinds, the tokenizer, the key, the policy."""
    digest = hashlib.sha256(f"{READING} {text_key} {skip_broken} {tokenizer.eos_token_id} {len(tokenizer)}".encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    digest.update(vocabulary.encode())
    for file in files:
        with file.open("rb") as opened:
            digest.update(_kind(file).encode())
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:24]


def _kind(file: Path) -> str:
    """Which reader a file has: files of one reader may be renamed without being tokenised again."""
    return next((kind for kind, known in KINDS.items() if file.suffix in known), "text")


def _write_corpus(
    files: list[Path], tokenizer: Any, text_key: str, directory: Path, broken: Broken, progress: bool
) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=directory.parent))
    try:
        kind = np.uint16 if len(tokenizer) <= np.iinfo(np.uint16).max else np.uint32
        offsets, text_bytes = array("q", [0]), array("q")
        tokens = document_bytes = 0
        file_documents = [0] * len(files)
        with (partial / "ids.bin").open("wb") as sink, _bar(files, progress) as bar:
            for pieces in _batches(_pieces(files, text_key, broken)):
                encoded = _encode(tokenizer, [text for text, _, _ in pieces])
                for (text, ends, file), ids in zip(pieces, encoded, strict=True):
                    marked = [*ids, tokenizer.eos_token_id] if ends else ids
                    sink.write(np.asarray(marked, dtype=kind).tobytes())
                    size = len(text.encode("utf-8", errors="replace"))
                    tokens, document_bytes = tokens + len(marked), document_bytes + size
                    bar.update(size)
                    if ends:
                        offsets.append(tokens)
                        text_bytes.append(document_bytes)
                        document_bytes = 0
                        file_documents[file] += 1
        np.save(partial / "offsets.npy", np.asarray(offsets, dtype=np.int64))
        np.save(partial / "text_bytes.npy", np.asarray(text_bytes, dtype=np.int64))
        about = {
            "tokens": tokens,
            "documents": len(text_bytes),
            "dtype": np.dtype(kind).name,
            "file_documents": file_documents,
            "broken": broken.count,
        }
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


def _pieces(files: list[Path], text_key: str, broken: Broken) -> Iterator[tuple[str, bool, int]]:
    """(text, whether a document ends with it, number of its file). Long documents are cut, after a line end."""
    for number, file in enumerate(files):
        for text in documents_in(file, text_key, broken):
            start = 0
            while start < len(text):
                end = text.find("\n", start + PIECE_CHARACTERS) + 1 or len(text)
                yield text[start:end], end == len(text), number
                start = end


def _batches(pieces: Iterator[tuple[str, bool, int]]) -> Iterator[list[tuple[str, bool, int]]]:
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
