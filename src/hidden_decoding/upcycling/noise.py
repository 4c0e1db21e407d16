"""Gaussian noise on a copied embedding table, block by block of rows.

Contract: the noise of (seed, stream) is one fixed tensor: it depends neither on how the table is cut into pieces nor on
files. Each block of `BLOCK_ROWS` rows has a generator of its own. Sums are made in float32 and cast back to the
table's dtype. Used by `writing.py` on tables as they are copied.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import torch

from hidden_decoding.errors import ConfigError
from hidden_decoding.modeling.safetensors_file import DTYPES, TensorEntry, TensorSpec, tensor_chunks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK_ROWS = 1024  # part of the meaning of a seed: another value gives other noise
NOISY_DTYPES = ("BF16", "F16", "F32", "F64")


def check_dtype(name: str, entry: TensorEntry) -> None:
    """Raises `ConfigError` when noise cannot be added to a table of this dtype."""
    if entry.dtype not in NOISY_DTYPES:
        raise ConfigError(
            f"--noise: the table {name} has dtype {entry.dtype}, and noise needs {', '.join(NOISY_DTYPES)}; leave "
            "--noise out, or convert the base first"
        )


def noisy_chunks(path: Path, entry: TensorEntry, *, std: float, seed: int, stream: int) -> Iterator[memoryview]:
    """The bytes of a table [V, D] plus the noise of stream `stream` (0-based), of standard deviation `std`.

    Pieces share one buffer, as those of `tensor_chunks` do.
    """
    for block, chunk in enumerate(_row_blocks(path, entry)):
        values = torch.frombuffer(chunk, dtype=_torch_dtype(entry))
        generator = torch.Generator().manual_seed(_block_seed(seed, stream, block))
        values.copy_(values.float() + std * torch.randn(values.shape, generator=generator))
        yield chunk


def table_std(path: Path, entry: TensorEntry) -> float:
    """Standard deviation of all elements of a table, in float64."""
    total = squares = 0.0
    for chunk in _row_blocks(path, entry):
        values = torch.frombuffer(chunk, dtype=_torch_dtype(entry)).double()
        total += float(values.sum())
        squares += float(values.square().sum())
    count = math.prod(entry.shape)
    return math.sqrt(max(squares / count - (total / count) ** 2, 0.0))


def _row_blocks(path: Path, entry: TensorEntry) -> Iterator[memoryview]:
    row_bytes = TensorSpec(entry.dtype, entry.shape[1:]).nbytes
    return tensor_chunks(path, entry, BLOCK_ROWS * row_bytes)


def _torch_dtype(entry: TensorEntry) -> torch.dtype:
    return getattr(torch, DTYPES[entry.dtype][1])  # type: ignore[no-any-return]


def _block_seed(seed: int, stream: int, block: int) -> int:
    """Independent of Python's hash and well mixed, so that neighbouring seeds and blocks share nothing."""
    digest = hashlib.sha256(f"{seed}:{stream}:{block}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
