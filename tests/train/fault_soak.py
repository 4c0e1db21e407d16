"""Kills a training run again and again with SIGKILL and lets it resume; prints where the kills fell as JSON.

A process of its own, so that children can be forked from one that has torch loaded and no threads running:

    python -m tests.train.fault_soak cpt|sft START DATA OUT SEED
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hidden_decoding.train.loop import train_cpt
from hidden_decoding.train.sft import train_sft
from hidden_decoding.train.sft_checkpoints import MARK, complete_checkpoints
from tests.train import chats, support

KILLS, IN_CHECKPOINT = 20, 5  # at least this many, and this many of them while a checkpoint was being written
SETTINGS = {"steps": 150, "warmup_steps": 2, "checkpoint_every": 1, "evaluate_every": 25, "track": "none"}


@dataclass(frozen=True)
class Kind:
    """A verb of training: how it runs, and which checkpoints in a run's directory are begun and which complete."""

    train: Callable[..., Any]
    settings: Callable[..., Any]
    begun: Callable[[Path], list[Path]]
    complete: Callable[[Path], list[Path]]


KINDS = {
    "cpt": Kind(
        train_cpt,
        support.settings,
        lambda out: list((out / "checkpoints").glob(".*.partial")),
        lambda out: list((out / "checkpoints").glob("step-*")),
    ),
    "sft": Kind(
        train_sft,
        chats.settings,
        lambda out: [p for p in (out / "checkpoints").glob("checkpoint-*") if not (p / MARK).exists()],
        complete_checkpoints,
    ),
}


def child(kind: Kind, start: Path, data: Path, out: Path) -> int:
    """Forks a process that resumes the run; returns its number."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        torch.set_num_threads(1)
        kind.train(kind.settings(start, data, out, resume=True, **SETTINGS), progress=False)
        status = 0
    finally:
        os._exit(status)


def begun(kind: Kind, out: Path) -> set[str]:
    return {path.name for path in kind.begun(out)} if out.exists() else set()


def steps_in(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.read_text(encoding="utf-8").count('"kind": "step"') if path.exists() else 0


def wait_for_steps(_kind: Kind, pid: int, out: Path, draw: random.Random) -> bool:
    """Until some steps more are done, however fast the machine is, and a moment more."""
    until, wanted = time.monotonic() + 60, steps_in(out) + draw.randint(-1, 3)
    while steps_in(out) < wanted and time.monotonic() < until:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
        time.sleep(0.001)
    time.sleep(draw.random() * 0.03)
    return not os.waitpid(pid, os.WNOHANG)[0]


def wait_a_while(_kind: Kind, pid: int, _out: Path, draw: random.Random) -> bool:
    """Any moment, most of them while the run is being set up."""
    time.sleep(draw.random() * 0.4)
    return not os.waitpid(pid, os.WNOHANG)[0]


def wait_for_checkpoint(kind: Kind, pid: int, out: Path, draw: random.Random) -> bool:
    """Until a checkpoint is begun, and a moment more; False when the process ended first."""
    before = begun(kind, out)  # what an earlier kill left behind
    while not (begun(kind, out) - before):
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
        time.sleep(0.0005)
    time.sleep(draw.random() * 0.004)
    return True


def run(kind: Kind, start: Path, data: Path, out: Path, seed: int) -> dict[str, object]:
    draw, kills = random.Random(seed), []
    while len(kills) < KILLS or sum(kill["in_checkpoint"] for kill in kills) < IN_CHECKPOINT:
        pid = child(kind, start, data, out)
        wait = (wait_a_while, wait_for_checkpoint, wait_for_steps, wait_for_checkpoint)[len(kills) % 4]
        if not wait(kind, pid, out, draw):
            break
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        complete = [path.name for path in kind.complete(out)] if out.exists() else []
        kills.append({"in_checkpoint": bool(begun(kind, out)), "complete": sorted(complete)})
    pid = child(kind, start, data, out)
    status = os.waitpid(pid, 0)[1] if not (out / "model").exists() else 0
    return {"kills": kills, "status": status}


if __name__ == "__main__":
    print(json.dumps(run(KINDS[sys.argv[1]], *map(Path, sys.argv[2:5]), int(sys.argv[5]))))
