"""A full disk: said before a run that will fill it, and one clear line when a write fails, whoever wrote.

Contract: `full_disk_is_clear` turns a write that failed for want of space, anywhere below, into a `CapacityError` that
names the newest complete checkpoint, and lets every other error through. `warn_of_little_room` warns and stops nothing:
space can be freed while a run goes on.

Place in the flow: around `loop.py` and `sft.py`.
"""

from __future__ import annotations

import errno
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

from hidden_decoding.errors import CapacityError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# PyTorch's and safetensors' own writers raise these and say little or nothing of the cause.
WRITERS = ("inline_container", "iostream error", "PytorchStreamWriter", "No space left", "StorageFull")
PROBE_BYTES = 1 << 20
FLOAT32_BYTES, ADAM_STATE_BYTES = 4, 8  # AdamW keeps two float32 numbers for each trained parameter

log = logging.getLogger(__name__)


@contextmanager
def full_disk_is_clear(out: Path, latest: Callable[[Path], Path | None]) -> Iterator[None]:
    """See the module's contract; `latest` finds the newest complete checkpoint of a run."""
    try:
        yield
    except (Exception, CheckpointException) as error:  # the latter is no `Exception`
        reason = _reason(error, out)
        if reason is None:
            raise
        newest = latest(out)
        kept = f"the newest complete checkpoint is {newest}" if newest else "there is no complete checkpoint yet"
        raise CapacityError(
            f"{out} could not be written: {reason}; {kept}. Free space, then go on with the same command and --resume"
        ) from error


def warn_of_little_room(
    out: Path, model: nn.Module, *, steps: int, every: int, keep: int, adapters: bool = False
) -> None:
    """Warns where the disk of `out` has less room than a run of `steps` steps with a checkpoint `every` so many needs.

    The result has all weights, a checkpoint (only what is trained with `adapters`) also the optimiser's state of what
    is trained; all numbers are taken for float32.
    """
    weights = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    result = FLOAT32_BYTES * weights
    each = FLOAT32_BYTES * (trained if adapters else weights) + ADAM_STATE_BYTES * trained
    checkpoints = checkpoints_at_once(steps, every, keep)
    needed, free = result + checkpoints * each, shutil.disk_usage(out).free
    if free < needed:
        log.warning(
            "%s has %s MB of free space, but this run may need %s MB: %s MB for the result and %d checkpoint(s) of %s "
            "MB (--keep-checkpoints, --checkpoint-every); when the disk is full the run stops and can be resumed from "
            "its newest complete checkpoint",
            *(out, *(f"{number / 1e6:,.1f}" for number in (free, needed, result)), checkpoints, f"{each / 1e6:,.1f}"),
        )


def checkpoints_at_once(steps: int, every: int, keep: int) -> int:
    """The most checkpoints that lie on the disk at a time: those kept, and the one that is being written."""
    return min(steps // every, keep + 1) if every else 0


def _reason(error: BaseException, out: Path) -> str | None:
    """Why the write failed, if it is that the disk is full."""
    unsure = False
    for one in _all_of(error):
        if isinstance(one, OSError) and one.errno in FULL:
            return one.strerror or "the disk is full"
        unsure = unsure or any(word in str(one) for word in WRITERS)
    return _probe(out) if unsure else None


def _all_of(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and what the processes of a checkpoint's write met."""
    if isinstance(error, CheckpointException):
        for failure, *_ in error.failures.values():
            yield from _all_of(failure)
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _probe(out: Path) -> str | None:
    """Writes a little beside the run, which fails where the disk is full."""
    try:
        with tempfile.TemporaryFile(dir=out) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
    except OSError as error:
        return error.strerror if error.errno in FULL else None
    return None
