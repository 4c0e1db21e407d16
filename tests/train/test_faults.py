"""Runs that are killed, that find the disk full, or that lose a process: what is left can be gone on with, exactly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hidden_decoding.cli.main import main
from hidden_decoding.modeling.checkpoint import load_model
from hidden_decoding.train import checkpoint
from hidden_decoding.train.loop import train_cpt
from hidden_decoding.train.metrics import read_metrics
from tests.conftest import missing
from tests.train import fault_soak
from tests.train.support import losses, settings, write_corpus

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("text") / "text.jsonl", 30_000)


def step_losses(out: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(out / "metrics.jsonl") if record["kind"] == "step"]


@pytest.mark.slow
def test_killed_at_random_twenty_times_a_run_ends_as_if_never_touched(tiny_checkpoint, text, tmp_path):
    start = tiny_checkpoint(2)
    straight = train_cpt(settings(start, text, tmp_path / "straight", **fault_soak.SETTINGS), progress=False)
    out, kills = tmp_path / "killed", []
    arguments = [str(start), str(text), str(out), "7"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.fault_soak", *arguments],
        capture_output=True, text=True, timeout=500, check=False, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    kills = report["kills"]
    assert len(kills) >= fault_soak.KILLS
    assert sum(kill["in_checkpoint"] for kill in kills) >= fault_soak.IN_CHECKPOINT
    assert report["status"] == 0
    assert step_losses(out) == losses(straight)
    whole, killed = (load_model(path).state_dict() for path in (straight.model, out / "model"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own that holds little."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        missing("the right to mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_one_clear_line_and_loses_no_checkpoint(tiny_checkpoint, text, tmp_path, small_disk, capsys):
    start = tiny_checkpoint(2)
    longest = {"steps": 8, "checkpoint_every": 1, "keep_checkpoints": 9, "track": "none"}
    straight = train_cpt(settings(start, text, tmp_path / "straight", **longest), progress=False)
    out = small_disk / "run"
    flags = [
        "train", "cpt", "-q", "--model", str(start), "--data", str(text), "--out", str(out),
        "--cache-dir", str(text.parent / "cache"), "--heldout-fraction", "0.1", "--tokens-per-sequence", "48",
        "--sequences-per-step", "4", "--steps", "8", "--warmup-steps", "2", "--learning-rate", "3e-3",
        "--evaluate-every", "3", "--evaluate-tokens", "400", "--loss-chunk-tokens", "64", "--device", "cpu",
        "--checkpoint-every", "1", "--keep-checkpoints", "9", "--track", "none",
    ]  # fmt: skip
    assert main(flags) == 2
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert "the newest complete checkpoint is" in said
    assert "--resume" in said
    assert "Traceback" not in said
    kept = checkpoint.latest(out)
    assert kept is not None
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert main([*flags, "--resume"]) == 0
    assert step_losses(out) == losses(straight)
