"""Two processes under torchrun compute what one does, and read each other's checkpoints."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from hidden_decoding.modeling.checkpoint import load_model
from hidden_decoding.train import checkpoint
from hidden_decoding.train.loop import train_cpt
from hidden_decoding.train.metrics import read_metrics
from tests.train.support import evaluations, losses, plain, settings, write_corpus

STEPS = {"steps": 4, "warmup_steps": 1, "evaluate_every": 2, "sequences_per_pass": 1}
# Two processes add gradients in another order. AdamW divides small ones by their own size, so a rounding error there
# can move a weight by a visible part of a step; the losses of four steps still agree to four digits.
LOSS_TOLERANCE = 5e-4


QUIET = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(config, directory: Path, *launch: str) -> list[str]:
    """`train cpt` under torchrun, with the settings in a run file."""
    run_file = directory / f"{Path(config.run.out).name}.yaml"
    run_file.write_text(yaml.safe_dump(plain(config.as_dict())), encoding="utf-8")
    verb = ["-m", "hidden_decoding.cli.main", "train", "cpt", "-q", "-c", str(run_file)]
    return [sys.executable, "-m", "torch.distributed.run", *launch, *verb]


def torchrun(config, directory: Path) -> list[dict]:
    """Runs the command under two processes; returns its records."""
    line = command(config, directory, "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, env=QUIET, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return read_metrics(Path(config.run.out) / "metrics.jsonl")


def two_hosts(config, directory: Path) -> list[dict]:
    """The same as two hosts: two launchers of one process each, that find each other over TCP."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    meeting = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(port)]
    hosts = [
        subprocess.Popen(
            command(config, directory, *meeting, "--node-rank", str(rank)),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=QUIET,
        )
        for rank in range(2)
    ]  # fmt: skip
    errors = [host.communicate(timeout=300)[1] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], "\n".join(error[-2000:] for error in errors)
    return read_metrics(Path(config.run.out) / "metrics.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_two_processes_equal_one_and_resume_as_one(tiny_checkpoint, tmp_path, optimiser):
    start, text = tiny_checkpoint(2, "linear"), write_corpus(tmp_path / "text.jsonl")
    steps = {**STEPS, "optimiser": optimiser}
    one = train_cpt(settings(start, text, tmp_path / "one", **steps), progress=False)

    records = torchrun(settings(start, text, tmp_path / "two", **steps), tmp_path)
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
    torchrun(settings(start, text, tmp_path / "handed", **steps, stop_at_step=2), tmp_path)
    finished = train_cpt(settings(start, text, tmp_path / "handed", **steps, resume=True), progress=False)
    assert losses(finished) == pytest.approx(losses(one), abs=LOSS_TOLERANCE)
    assert torch.isfinite(torch.tensor(losses(finished))).all()


@pytest.mark.slow
def test_muon_over_shards_is_muon_over_whole_matrices():
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*line, "-m", "tests.train.sharded_muon"], capture_output=True, text=True, timeout=120, env=QUIET, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    differences = json.loads(done.stdout.splitlines()[-1])
    assert differences["ours"] == 0
    assert differences["pytorch"] > 1e-5, "the check would see another rounding"


@pytest.mark.slow
def test_two_hosts_finish_what_one_process_began_on_streamed_text(tiny_checkpoint, tmp_path):
    """A checkpoint of one process is read by two hosts, each with its own lanes of the text."""
    start, text = tiny_checkpoint(2), write_corpus(tmp_path / "text.jsonl")
    held = write_corpus(tmp_path / "held.jsonl", 10_000)
    streamed = {**STEPS, "streaming": True, "heldout": (str(held),), "lanes": 4}
    one = train_cpt(settings(start, text, tmp_path / "one", **streamed), progress=False)
    train_cpt(settings(start, text, tmp_path / "handed", **streamed, stop_at_step=2), progress=False)
    records = two_hosts(settings(start, text, tmp_path / "handed", **streamed, resume=True), tmp_path)
    assert [r["loss"] for r in records if r["kind"] == "step"] == pytest.approx(losses(one), abs=LOSS_TOLERANCE)
    assert [r["heldout_loss"] for r in records if r["kind"] == "evaluation"] == pytest.approx(
        evaluations(one), abs=LOSS_TOLERANCE
    )
    assert load_model(tmp_path / "handed" / "model").config.num_streams == 2


@pytest.mark.slow
def test_a_lost_process_ends_the_run_and_costs_only_what_came_after_the_checkpoint(tiny_checkpoint, tmp_path):
    start, text = tiny_checkpoint(2), write_corpus(tmp_path / "text.jsonl")
    long = {**STEPS, "steps": 60, "evaluate_every": 0, "checkpoint_every": 1, "track": "none"}
    config = settings(start, text, tmp_path / "lost", **long)
    line = command(config, tmp_path, "--standalone", "--nproc-per-node", "2")
    launcher = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=QUIET)
    until = time.monotonic() + 200
    while checkpoint.latest(tmp_path / "lost") is None:
        assert time.monotonic() < until, "no checkpoint was written"
        time.sleep(0.05)
    psutil.Process(launcher.pid).children()[1].send_signal(signal.SIGKILL)
    assert launcher.wait(timeout=200) != 0
    newest = checkpoint.latest(tmp_path / "lost")
    assert checkpoint.read_state(newest)["step"] < 60
    assert not (tmp_path / "lost" / "model").exists()
    one = train_cpt(settings(start, text, tmp_path / "one", **{**long, "checkpoint_every": 0}), progress=False)
    resumed = train_cpt(settings(start, text, tmp_path / "lost", **long, resume=True), progress=False)
    assert [r["step"] for r in resumed.records if r["kind"] == "step"] == list(range(1, 61))
    # Rounding grows with the steps two processes made; the first few after the start agree to four digits.
    assert losses(resumed)[:4] == pytest.approx(losses(one)[:4], abs=LOSS_TOLERANCE)
    assert losses(resumed)[-1] == pytest.approx(losses(one)[-1], abs=0.05)
