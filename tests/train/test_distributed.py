"""Two processes under torchrun compute what one does, and read each other's checkpoints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from hidden_decoding.modeling.checkpoint import load_model
from hidden_decoding.train.loop import train_cpt
from hidden_decoding.train.metrics import read_metrics
from tests.train.support import evaluations, losses, settings, write_corpus

STEPS = {"steps": 4, "warmup_steps": 1, "evaluate_every": 2, "sequences_per_pass": 1}
# Two processes add gradients in another order. AdamW divides small ones by their own size, so a rounding error there
# can move a weight by a visible part of a step; the losses of four steps still agree to four digits.
LOSS_TOLERANCE = 5e-4


def torchrun(config, directory: Path) -> list[dict]:
    """Runs the command under two processes; returns its records."""
    run_file = directory / "run.yaml"
    run_file.write_text(yaml.safe_dump(_plain(config.as_dict())), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "hidden_decoding.cli.main", "train", "cpt", "-q", "-c", str(run_file)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return read_metrics(Path(config.run.out) / "metrics.jsonl")


def _plain(sections: dict) -> dict:
    return {
        name: {key: list(value) if isinstance(value, tuple) else value for key, value in section.items()}
        for name, section in sections.items()
    }


@pytest.mark.slow
def test_two_processes_equal_one_and_resume_as_one(tiny_checkpoint, tmp_path):
    start, text = tiny_checkpoint(2, "linear"), write_corpus(tmp_path / "text.jsonl")
    one = train_cpt(settings(start, text, tmp_path / "one", **STEPS), progress=False)

    records = torchrun(settings(start, text, tmp_path / "two", **STEPS), tmp_path)
    assert records[0]["processes"] == 2
    two_losses = [record["loss"] for record in records if record["kind"] == "step"]
    assert two_losses == pytest.approx(losses(one), abs=LOSS_TOLERANCE)
    held = [record["heldout_loss"] for record in records if record["kind"] == "evaluation"]
    assert held == pytest.approx(evaluations(one), abs=LOSS_TOLERANCE)
    assert [r["heldout_tokens"] for r in records if r["kind"] == "evaluation"] == [
        r["heldout_tokens"] for r in one.records if r["kind"] == "evaluation"
    ]
    alone, both = load_model(one.model).state_dict(), load_model(tmp_path / "two" / "model").state_dict()
    for name, weight in alone.items():
        moved = (weight - both[name]).abs().double()
        assert float(moved.mean()) < 2e-5, name

    # Stopped with two processes, finished by one.
    torchrun(settings(start, text, tmp_path / "handed", **STEPS, stop_at_step=2), tmp_path)
    finished = train_cpt(settings(start, text, tmp_path / "handed", **STEPS, resume=True), progress=False)
    assert losses(finished) == pytest.approx(losses(one), abs=LOSS_TOLERANCE)
    assert torch.isfinite(torch.tensor(losses(finished))).all()
