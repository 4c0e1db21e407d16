"""Writing a directory so that it is there whole or not at all: fill a hidden sibling, then rename it.

Contract: inside the `with` block the target is untouched; after it the target is complete and on disk. An exception
removes what was written. A killed process leaves only `.NAME.partial-*`, which no loader looks at and the next run to
the same target removes (a lock tells the dead from the living). Used by everything that writes a checkpoint directory.

    >>> with staged_directory(Path("out"), overwrite=False) as partial:
    ...     (partial / "config.json").write_text("{}")
"""

from __future__ import annotations

import fcntl
import glob
import os
import secrets
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hidden_decoding.errors import CapacityError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def staged_directory(out: Path, *, overwrite: bool, source: Path | None = None) -> Iterator[Path]:
    """Yields an empty directory beside `out` that becomes `out` when the block ends without an exception.

    `source` is a directory the block reads: replacing it, or a directory it lies in, is refused.
    """
    out = out.expanduser().resolve()
    check_target(out, overwrite=overwrite, source=source)
    partial = out.parent / f".{out.name}.partial-{secrets.token_hex(4)}"
    lock = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(out)
        partial.mkdir()
        lock = _locked(partial)
        yield partial
        _to_disk(partial)
        _put_in_place(partial, out)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise CapacityError(f"--out {out} could not be written ({error}); nothing was left behind") from error
        raise
    finally:
        if lock is not None:
            os.close(lock)


def check_target(out: Path, *, overwrite: bool, source: Path | None = None) -> None:
    """Raises `ConfigError` when `out` may not be written."""
    out = out.expanduser().resolve()
    if source is not None and source.resolve().is_relative_to(out):
        raise ConfigError(
            f"--out {out} is, or contains, the checkpoint that is read ({source}); name another directory"
        )
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigError(f"--out {out} is a file, not a directory; name another")
    if not any(out.iterdir()):
        return
    if not overwrite:
        raise ConfigError(
            f"--out {out} exists and is not empty; name another directory, or replace it with --overwrite"
        )
    if not (out / "config.json").is_file():
        raise ConfigError(
            f"--out {out} is not empty and holds no config.json, so it is no checkpoint and --overwrite will not "
            "delete it; name another directory"
        )


def check_space(directory: Path, needed_bytes: int) -> None:
    """Raises `CapacityError` unless the file system of `directory` has that much room."""
    free = shutil.disk_usage(directory).free
    if free < needed_bytes:
        raise CapacityError(
            f"{directory}: {needed_bytes / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free (a directory that "
            "is overwritten stays until the new one is complete); make room, or choose another disk with --out"
        )


def _locked(directory: Path) -> int | None:
    """A descriptor that holds the directory's lock, or None where another process holds it or locks do not work."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _clear_leftovers(out: Path) -> None:
    """Removes what killed runs left beside `out`; refuses while a living one writes there."""
    name = glob.escape(out.name)
    for leftover in out.parent.glob(f".{name}.partial-*"):
        lock = _locked(leftover)
        if lock is None:
            raise ConfigError(
                f"another run is writing {out} ({leftover} is locked); wait for it, or name another --out. If no such "
                f"run exists, remove {leftover}"
            )
        shutil.rmtree(leftover)
        os.close(lock)
    for replaced in out.parent.glob(f".{name}.replaced-*"):
        if out.exists():
            shutil.rmtree(replaced)
        else:  # killed between the two renames of `_put_in_place`
            replaced.rename(out)


def _to_disk(directory: Path) -> None:
    """Brings every file to disk, so that the rename cannot survive a power cut that the contents did not."""
    for path in [*(path for path in directory.rglob("*") if not path.is_symlink()), directory]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _put_in_place(partial: Path, out: Path) -> None:
    if not out.exists() or not any(out.iterdir()):
        partial.rename(out)
        return
    replaced = out.parent / f".{out.name}.replaced-{secrets.token_hex(4)}"
    out.rename(replaced)
    try:
        partial.rename(out)
    except OSError:
        replaced.rename(out)
        raise
    shutil.rmtree(replaced)
