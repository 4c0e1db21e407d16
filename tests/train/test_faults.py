"""Runs that are killed, that find the disk full, or that lose a process: what is left can be gone on with, exactly."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hidden_decoding.cli.main import main
from hidden_decoding.modeling.checkpoint import load_config, load_model
from hidden_decoding.train import checkpoint, disk, sft_checkpoints
from hidden_decoding.train.metrics import read_metrics
from tests.conftest import missing
from tests.train import fault_soak
from tests.train.chats import write_chats
from tests.train.support import losses, write_corpus

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("text") / "text.jsonl", 30_000)


def step_losses(out: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(out / "metrics.jsonl") if record["kind"] == "step"]


@pytest.fixture(scope="module")
def data(text, tmp_path_factory):
    """What each verb trains on."""
    return {"cpt": text, "sft": write_chats(tmp_path_factory.mktemp("chats") / "chats.jsonl")}


@pytest.mark.slow
@pytest.mark.parametrize("verb", fault_soak.KINDS)
def test_killed_at_random_twenty_times_a_run_ends_as_if_never_touched(tiny_checkpoint, data, tmp_path, verb):
    start, kind = tiny_checkpoint(2), fault_soak.KINDS[verb]
    config = kind.settings(start, data[verb], tmp_path / "straight", **fault_soak.SETTINGS)
    straight, out = kind.train(config, progress=False), tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.fault_soak", verb, str(start), str(data[verb]), str(out), "7"],
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


def flags_for(verb: str, start: Path, data: Path, out: Path) -> list[str]:
    """A run of eight steps that keeps every checkpoint."""
    flags = [
        "train", verb, "-q", "--model", str(start), "--data", str(data), "--out", str(out),
        "--heldout-fraction", "0.1", "--tokens-per-sequence", "256", "--sequences-per-step", "2", "--steps", "8",
        "--warmup-steps", "2", "--learning-rate", "3e-3", "--evaluate-every", "3", "--device", "cpu",
        "--checkpoint-every", "1", "--keep-checkpoints", "9", "--track", "none",
    ]  # fmt: skip
    return [*flags, "--cache-dir", str(data.parent / "cache")] if verb == "cpt" else flags


# The disk is full at the first checkpoint, at a later one, in PyTorch's and in safetensors' own writers.
@pytest.mark.parametrize("kilobytes", [300, 1000, 3000, 6000])
@pytest.mark.parametrize("verb", fault_soak.KINDS)
def test_a_full_disk_is_one_clear_line_and_loses_no_checkpoint(
    tiny_checkpoint, data, tmp_path, small_disk, capsys, caplog, verb, kilobytes
):
    start, out = tiny_checkpoint(2), small_disk / "run"
    assert main(flags_for(verb, start, data[verb], tmp_path / "straight")) == 0
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(small_disk)], check=True)
    capsys.readouterr()
    assert main(flags_for(verb, start, data[verb], out)) == 2
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert "--resume" in said
    assert "Traceback" not in said
    kept = (checkpoint if verb == "cpt" else sft_checkpoints).latest(out)
    assert (f"the newest complete checkpoint is {kept}" if kept else "there is no complete checkpoint yet") in said
    assert kept or kilobytes <= 1000
    assert "MB of free space, but this run may need" in caplog.text, "and it had been said before the first step"
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert main([*flags_for(verb, start, data[verb], out), "--resume"]) == 0
    assert step_losses(out) == step_losses(tmp_path / "straight")
    assert load_config(out / "model").num_streams == 2


@pytest.mark.parametrize("verb", fault_soak.KINDS)
def test_a_disk_that_is_full_at_the_very_end_loses_only_the_result(
    tiny_checkpoint, data, tmp_path, small_disk, capsys, verb
):
    start, out = tiny_checkpoint(2), small_disk / "run"
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert main([*flags_for(verb, start, data[verb], out), "--stop-at-step", "7"]) == 0
    used = shutil.disk_usage(small_disk).used
    subprocess.run(["mount", "-o", f"remount,size={used // 1024 + 120}k", str(small_disk)], check=True)
    again = [*flags_for(verb, start, data[verb], out), "--resume", "--checkpoint-every", "0"]
    assert main(again) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not (out / "model").exists()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert main(again) == 0
    assert len(step_losses(out)) == 8


def test_another_error_is_not_taken_for_a_full_disk(tmp_path):
    for error in (OSError(errno.EIO, "Input/output error"), RuntimeError("PytorchStreamWriter failed writing file")):
        with pytest.raises(type(error)), disk.full_disk_is_clear(tmp_path, checkpoint.latest):
            raise error


def test_room_is_counted_and_warned_of(tmp_path, caplog, monkeypatch):
    assert [disk.checkpoints_at_once(*run) for run in ((10, 0, 2), (10, 4, 2), (100, 1, 2))] == [0, 2, 3]
    model = torch.nn.Linear(1000, 1000, bias=False)  # 4 MB, and 12 MB a checkpoint while all of it is trained
    settings = {"steps": 9, "every": 3, "keep": 5}
    disk.warn_of_little_room(tmp_path, model, **settings)
    assert not caplog.records
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    disk.warn_of_little_room(tmp_path, model, **settings)
    assert "may need 40.0 MB: 4.0 MB for the result and 3 checkpoint(s) of 12.0 MB" in caplog.text
    model.requires_grad_(False)
    disk.warn_of_little_room(tmp_path, model, **settings, adapters=True)
    assert "may need 4.0 MB: 4.0 MB for the result and 3 checkpoint(s) of 0.0 MB" in caplog.text
