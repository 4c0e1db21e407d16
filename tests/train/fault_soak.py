"""Kills a training run again and again with SIGKILL and lets it resume; prints where the kills fell as JSON.

A process of its own, so that children can be forked from one that has torch loaded and no threads running:

    python -m tests.train.fault_soak START TEXT OUT SEED
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from hidden_decoding.train.loop import train_cpt
from tests.train.support import settings

KILLS, IN_CHECKPOINT = 20, 5  # at least this many, and this many of them while a checkpoint was being written
SETTINGS = {"steps": 150, "warmup_steps": 2, "checkpoint_every": 1, "evaluate_every": 25, "track": "none"}


def child(start: Path, text: Path, out: Path) -> int:
    """Forks a process that resumes the run; returns its number."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        torch.set_num_threads(1)
        train_cpt(settings(start, text, out, resume=True, **SETTINGS), progress=False)
        status = 0
    finally:
        os._exit(status)


def partials(out: Path) -> set[str]:
    return {path.name for path in (out / "checkpoints").glob(".*.partial")} if out.exists() else set()


def steps_in(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.read_text(encoding="utf-8").count('"kind": "step"') if path.exists() else 0


def wait_for_steps(pid: int, out: Path, draw: random.Random) -> bool:
    """Until some steps more are done, however fast the machine is, and a moment more."""
    until, wanted = time.monotonic() + 60, steps_in(out) + draw.randint(-1, 3)
    while steps_in(out) < wanted and time.monotonic() < until:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
        time.sleep(0.001)
    time.sleep(draw.random() * 0.03)
    return not os.waitpid(pid, os.WNOHANG)[0]


def wait_a_while(pid: int, _out: Path, draw: random.Random) -> bool:
    """Any moment, most of them while the run is being set up."""
    time.sleep(draw.random() * 0.4)
    return not os.waitpid(pid, os.WNOHANG)[0]


def wait_for_checkpoint(pid: int, out: Path, draw: random.Random) -> bool:
    """Until a checkpoint is begun, and a moment more; False when the process ended first."""
    before = partials(out)  # what an earlier kill left behind
    while not (partials(out) - before):
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
        time.sleep(0.0005)
    time.sleep(draw.random() * 0.004)
    return True


def run(start: Path, text: Path, out: Path, seed: int) -> dict[str, object]:
    draw, kills = random.Random(seed), []
    while len(kills) < KILLS or sum(kill["in_checkpoint"] for kill in kills) < IN_CHECKPOINT:
        pid = child(start, text, out)
        wait = (wait_a_while, wait_for_checkpoint, wait_for_steps, wait_for_checkpoint)[len(kills) % 4]
        if not wait(pid, out, draw):
            break
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        complete = [path.name for path in (out / "checkpoints").glob("step-*")] if out.exists() else []
        kills.append({"in_checkpoint": bool(partials(out)), "complete": sorted(complete)})
    pid = child(start, text, out)
    status = os.waitpid(pid, 0)[1] if not (out / "model").exists() else 0
    return {"kills": kills, "status": status}


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))))
