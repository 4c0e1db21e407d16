"""Checkpoints of supervised fine-tuning: TRL writes them, and one that was not written to its end counts for nothing.

Contract: `mark` is called when all processes have written theirs; only directories that it has marked are complete.

Place in the flow: `sft_trainer.py` marks, `sft.py` resumes from the newest. Those of `train cpt`: `checkpoint.py`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

MARK = "complete.json"


def mark(directory: Path, state: dict[str, Any]) -> None:
    """Declares a checkpoint complete; the mark holds the run's settings and totals."""
    (directory / f".{MARK}").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    (directory / f".{MARK}").rename(directory / MARK)


def read_mark(directory: Path) -> dict[str, Any]:
    """What `mark` was given."""
    state: dict[str, Any] = json.loads((directory / MARK).read_text(encoding="utf-8"))
    return state


def complete_checkpoints(out: Path) -> list[Path]:
    """Checkpoints of a run that were written to the end, oldest first."""
    found = [path for path in (out / "checkpoints").glob("checkpoint-*") if (path / MARK).is_file()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def latest(out: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    return next(reversed(complete_checkpoints(out)), None)


def remove_half_written(out: Path) -> None:
    """Deletes what an interrupted write left, so that it counts for nothing."""
    for path in (out / "checkpoints").glob("checkpoint-*"):
        if not (path / MARK).is_file():
            shutil.rmtree(path)
