"""A run's numbers where people watch them: TensorBoard by default, Weights & Biases or Trackio when asked for.

Contract: a tracker takes a record of `metrics.jsonl` and shows every number in it under `KIND/NAME` at the record's
step. It never decides anything: the file is the truth, and a package that is missing is a clear error before training
(only the default, TensorBoard, is left out with a warning).

    >>> make_tracker("tensorboard", Path("runs/books"), {"steps": 100}).record({"kind": "step", "step": 1, "loss": 5.0})
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from hidden_decoding.errors import DependencyError

log = logging.getLogger(__name__)
NOT_CURVES = ("kind", "step")


class Tracker(Protocol):
    """Where numbers go."""

    def record(self, record: dict[str, Any]) -> None:
        """Shows the numbers of one record."""

    def close(self) -> None:
        """Writes out what is left."""


def numbers_of(record: dict[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """(name, value) of every number in a record, groups of numbers included: `evaluation/stream_cosine/input`."""
    for name, value in record.items():
        if name in NOT_CURVES or isinstance(value, bool):
            continue
        if isinstance(value, dict):
            yield from numbers_of(value, f"{prefix}/{name}")
        elif isinstance(value, int | float):
            yield f"{prefix}/{name}", float(value)


class _TensorBoard:
    def __init__(self, out: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What an interrupted session showed after its last checkpoint is taken back: it is done again now.
        self.writer = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1 if step else None)

    def record(self, record: dict[str, Any]) -> None:
        for name, value in numbers_of(record, record["kind"]):
            self.writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        self.writer.close()


class _Logged:
    """Weights & Biases, and Trackio, which has the same calls."""

    def __init__(self, package: Any, out: Path, settings: dict[str, Any], **options: Any) -> None:
        self.package = package
        with contextlib.redirect_stdout(sys.stderr):  # what it says is no result
            package.init(project="hidden-decoding", name=out.name, config=settings, **options)

    def record(self, record: dict[str, Any]) -> None:
        self.package.log(dict(numbers_of(record, record["kind"])), step=record["step"])

    def close(self) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            self.package.finish()


def check_tracker(name: str) -> None:
    """Refuses a tracker whose package is missing, before any work; TensorBoard, the default, is only warned about."""
    if name == "none" or importlib.util.find_spec(name) is not None:
        return
    if name != "tensorboard":
        raise DependencyError(f"--track {name} needs the package {name}; install it with: pip install {name}")
    log.warning("tensorboard is not installed: curves are in metrics.jsonl only (pip install tensorboard)")


def make_tracker(name: str, out: Path, settings: dict[str, Any], step: int = 0) -> Tracker | None:
    """The tracker called `name`, for the run in `out` that goes on after `step`; None where there is none to be had.

    `settings` are shown with the run where the tracker can.
    """
    if name == "none" or importlib.util.find_spec(name) is None:
        return None
    if name == "tensorboard":
        return _TensorBoard(out, step)
    if name == "wandb":
        import wandb

        return _Logged(wandb, out, settings, dir=str(out))
    import trackio

    return _Logged(trackio, out, settings)
