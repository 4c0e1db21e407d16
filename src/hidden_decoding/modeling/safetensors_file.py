"""Safetensors files as plain bytes: strict headers, bounded-memory reading and writing, shards and their index.

Contract: `read_header` says where each tensor's bytes lie and refuses any file whose header and length do not agree to
the byte; `tensor_chunks` reads and `SafetensorsWriter` writes tensors of any size through one buffer of at most
`CHUNK_BYTES`. No tensor library is loaded. `upcycle`, strict loading and export stand on this module.

    >>> entries = read_header(Path("checkpoint/model.safetensors"))
    >>> entries["model.embed_tokens.weight"].shape
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from hidden_decoding.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import TracebackType

CHUNK_BYTES = 8 * 2**20  # larger pieces are no faster: they leave the processor's caches
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library; real headers take kilobytes to megabytes
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

# Name in the file -> (bytes of one element, name of the torch dtype).
DTYPES = {
    "BOOL": (1, "bool"),
    "U8": (1, "uint8"),
    "I8": (1, "int8"),
    "F8_E5M2": (1, "float8_e5m2"),
    "F8_E4M3": (1, "float8_e4m3fn"),
    "F8_E8M0": (1, "float8_e8m0fnu"),
    "I16": (2, "int16"),
    "U16": (2, "uint16"),
    "F16": (2, "float16"),
    "BF16": (2, "bfloat16"),
    "I32": (4, "int32"),
    "U32": (4, "uint32"),
    "F32": (4, "float32"),
    "I64": (8, "int64"),
    "U64": (8, "uint64"),
    "F64": (8, "float64"),
    "C64": (8, "complex64"),
}
_SIZE_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor is, wherever it lies: `dtype` is the safetensors name ("BF16", "F32", ...)."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's data."""
        return math.prod(self.shape) * DTYPES[self.dtype][0]


@dataclass(frozen=True)
class TensorEntry:
    """A tensor in a file: its bytes are `[start, end)`, counted from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's data."""
        return self.end - self.start

    @property
    def spec(self) -> TensorSpec:
        """The tensor without its place."""
        return TensorSpec(self.dtype, self.shape)


def parse_size(text: str | int) -> int:
    """Bytes of a size as people write it: 5GB (10^9), 500MB, 2GiB (2^30), or a plain number of bytes."""
    number = str(text).strip().rstrip("BIKMGbikmg")
    unit = str(text).strip()[len(number) :].upper()
    try:
        size = int(float(number) * _SIZE_UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size < 1:
        raise ConfigError(f"{text!r} is not a size: write a number and a unit, like 5GB, 500MB or 2GiB")
    return size


# ---------------------------------------------------------------------------------------------------------- reading


def read_header(path: str | Path) -> dict[str, TensorEntry]:
    """The tensors of one file, in the order of their bytes; raises `CheckpointError` unless the file is whole."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            described, data_start = _parsed_header(path, size, file)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); fetch the file again") from error
    entries = {name: _entry(path, name, fields, data_start) for name, fields in described.items()}
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)))
    _check_tiling(path, ordered, data_start, size)
    return ordered


def _parsed_header(path: Path, size: int, file: IO[bytes]) -> tuple[dict[str, Any], int]:
    """The header's tensors as they are written there, and the byte of the file where their data begins."""
    if size < 8:
        raise _broken(path, f"it holds {size} bytes, too few for a header")
    first = file.read(8)
    header_bytes = int.from_bytes(first, "little")
    if first == b"version ":
        raise CheckpointError(
            f"{path}: is a Git LFS pointer, not the weights themselves; fetch them with: git lfs pull (in the "
            "repository the checkpoint came from)"
        )
    if header_bytes > MAX_HEADER_BYTES:
        raise _broken(path, f"its first 8 bytes announce a header of {header_bytes} bytes: not a safetensors file")
    if header_bytes > size - 8:
        raise _broken(path, f"it is truncated inside its header ({size} bytes of at least {header_bytes + 8})")
    try:
        parsed = json.loads(file.read(header_bytes), object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"its header is not valid JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise _broken(path, f"its header is a JSON {type(parsed).__name__}, not an object")
    parsed.pop("__metadata__", None)
    return parsed, 8 + header_bytes


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{repeated!r} appears twice")
    return result


def _entry(path: Path, name: str, fields: Any, data_start: int) -> TensorEntry:
    if not isinstance(fields, dict) or {"dtype", "shape", "data_offsets"} - fields.keys():
        raise _broken(path, f"the header's entry of tensor {name!r} lacks dtype, shape or data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(f"{path}: tensor {name!r} has the unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    if not _whole_numbers(shape) or not _whole_numbers(offsets) or len(offsets) != 2:
        raise _broken(path, f"tensor {name!r} has shape {shape!r} and data_offsets {offsets!r}")
    entry = TensorEntry(dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])
    if entry.spec.nbytes != entry.nbytes:
        raise _broken(
            path,
            f"tensor {name!r} of shape {shape} and dtype {dtype} takes {entry.spec.nbytes} bytes, not {entry.nbytes}",
        )
    return entry


def _whole_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_tiling(path: Path, ordered: Mapping[str, TensorEntry], data_start: int, size: int) -> None:
    """Tensors must follow each other without a gap or an overlap, and end where the file ends."""
    expected = data_start
    for name, entry in ordered.items():
        if entry.start != expected:
            problem = "overlaps the tensor before it" if entry.start < expected else "leaves unused bytes before it"
            raise _broken(path, f"tensor {name!r} begins at byte {entry.start} and {problem} (expected {expected})")
        expected = entry.end
    if expected > size:
        raise _broken(path, f"it is truncated: {size} bytes, but the header describes {expected}")
    if expected < size:
        raise _broken(path, f"it holds {size - expected} bytes more than the {expected} the header describes")


def _broken(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"{path}: the file is broken: {problem}; fetch the file again")


def tensor_chunks(path: str | Path, entry: TensorEntry, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
    """A tensor's bytes in pieces of exactly `chunk_bytes` (the last may be shorter).

    All pieces share one writable buffer: use each before asking for the next.
    """
    buffer = memoryview(bytearray(min(chunk_bytes, entry.nbytes)))
    with Path(path).open("rb", buffering=0) as file:
        file.seek(entry.start)
        for done in range(0, entry.nbytes, chunk_bytes):
            piece = buffer[: entry.nbytes - done]
            _read_all(Path(path), file, piece)
            yield piece


def _read_all(path: Path, file: Any, buffer: memoryview) -> None:
    """A raw file may give less than it was asked for (Linux stops at 2 GiB)."""
    while buffer:
        got = file.readinto(buffer)
        if not got:
            raise _broken(path, f"it ended {len(buffer)} bytes early while being read")
        buffer = buffer[got:]


# ---------------------------------------------------------------------------------------------------------- writing


class SafetensorsWriter:
    """Writes one file whose tensors are known in advance, each in pieces, in any order of tensors.

    Leaving the `with` block normally checks that every byte was written and brings the file to disk. After an
    exception the file stays as it is, incomplete: write below a temporary directory.

        with SafetensorsWriter(path, {"weight": TensorSpec("F32", (2, 2))}) as writer:
            writer.write("weight", [bytes(16)])
    """

    def __init__(self, path: str | Path, tensors: Mapping[str, TensorSpec]) -> None:
        self.path = Path(path)
        header, self.entries = _laid_out(tensors)
        self._missing = set(tensors)
        self._file = self.path.open("wb", buffering=0)
        _write_all(self._file, header)
        self._file.truncate(max([len(header), *(entry.end for entry in self.entries.values())]))

    def write(self, name: str, chunks: Iterable[Buffer], on_bytes: Callable[[int], object] | None = None) -> None:
        """Writes one tensor; `on_bytes` hears the size of each piece as it is done."""
        entry = self.entries[name]
        self._file.seek(entry.start)
        written = 0
        for chunk in chunks:
            view = memoryview(chunk).cast("B")
            written += len(view)
            assert written <= entry.nbytes, f"{name}: {written} bytes written, {entry.nbytes} announced"
            _write_all(self._file, view)
            if on_bytes is not None:
                on_bytes(len(view))
        assert written == entry.nbytes, f"{name}: {written} bytes written, {entry.nbytes} announced"
        self._missing.discard(name)

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is None:
                assert not self._missing, f"{self.path}: never written: {sorted(self._missing)}"
                os.fsync(self._file.fileno())
        finally:
            self._file.close()


def _laid_out(tensors: Mapping[str, TensorSpec]) -> tuple[bytes, dict[str, TensorEntry]]:
    """Header bytes and places. Wider elements come first, so that every tensor is aligned to its element."""
    described: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    ordered = dict(sorted(tensors.items(), key=lambda item: -DTYPES[item[1].dtype][0]))
    for name, spec in ordered.items():
        end = offset + spec.nbytes
        described[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    entries = {
        name: TensorEntry(spec.dtype, spec.shape, *(start + at for at in described[name]["data_offsets"]))
        for name, spec in ordered.items()
    }
    return len(text).to_bytes(8, "little") + text, entries


def _write_all(file: Any, data: Buffer) -> None:
    """A raw file may take less than it was given (Linux stops at 2 GiB)."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def plan_shards(tensors: Mapping[str, TensorSpec], max_shard_bytes: int) -> dict[str, dict[str, TensorSpec]]:
    """File name -> its tensors, in the given order, none over the limit unless a single tensor is larger than it."""
    shards: list[dict[str, TensorSpec]] = [{}]
    used = 0
    for name, spec in tensors.items():
        if shards[-1] and used + spec.nbytes > max_shard_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = spec
        used += spec.nbytes
    if len(shards) == 1:
        return {SINGLE_FILE: shards[0]}
    return {f"model-{i:05d}-of-{len(shards):05d}.safetensors": shard for i, shard in enumerate(shards, start=1)}


def write_tensors(
    directory: Path,
    tensors: Mapping[str, TensorSpec],
    chunks_of: Callable[[str], Iterable[Buffer]],
    *,
    max_shard_bytes: int,
    on_bytes: Callable[[int], object] | None = None,
) -> list[str]:
    """Writes all weights of a checkpoint, one tensor after the other, and the index if there is more than one file.

    `chunks_of(name)` gives a tensor's bytes in pieces. Returns the names of the weight files.
    """
    shards = plan_shards(tensors, max_shard_bytes)
    for file_name, shard in shards.items():
        with SafetensorsWriter(directory / file_name, shard) as writer:
            for name in writer.entries:
                writer.write(name, chunks_of(name), on_bytes)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(spec.nbytes for spec in tensors.values())},
            "weight_map": {name: file_name for file_name, shard in shards.items() for name in sorted(shard)},
        }
        (directory / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return list(shards)
