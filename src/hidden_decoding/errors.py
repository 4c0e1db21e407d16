"""Typed errors: each says what happened, the value seen, why it matters, and the next command.

Contract: everything a user can cause is a `HiddenDecodingError`; the command line prints its message
without a traceback and exits with 2. Internal invariants use `assert` with a message instead.
Loads nothing but the standard library.
"""

from __future__ import annotations


class HiddenDecodingError(Exception):
    """Base of all errors a user can cause. `str(error)` is complete and fit to be shown as it is."""


class ConfigError(HiddenDecodingError, ValueError):
    """A configuration (a `config.json`, a run file, a flag) holds a value that cannot work."""


class CheckpointError(HiddenDecodingError, ValueError):
    """A checkpoint directory is not what its configuration says: files or tensors missing, extra or broken."""


class RequestError(HiddenDecodingError, ValueError):
    """A request to an engine cannot be served as asked; `param` names the field at fault, if one is."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class CapacityError(HiddenDecodingError, RuntimeError):
    """There is not enough of something (memory, disk, a port, room in a queue) to go on."""


class DependencyError(HiddenDecodingError, ImportError):
    """An optional dependency is missing; the message names the extra that brings it."""
