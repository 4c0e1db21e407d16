"""What a run reports beside its losses: speed against the peak, cosine of streams, and the trackers' own files."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time

import pytest
import torch

from hidden_decoding.errors import DependencyError
from hidden_decoding.modeling.checkpoint import load_config, load_model
from hidden_decoding.modeling.flops import training_flops_per_token
from hidden_decoding.train import trackers
from hidden_decoding.train.data import Row, make_batch
from hidden_decoding.train.loop import train_cpt
from hidden_decoding.train.loss import CausalLoss
from hidden_decoding.train.stream_cosine import mean_cosine, stream_cosine
from tests.train.support import losses, settings, write_corpus


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("text") / "text.jsonl", 30_000)


def test_speed_is_a_share_of_the_peak(tiny_checkpoint, text, tmp_path):
    start = tiny_checkpoint(4)
    result = train_cpt(
        settings(start, text, tmp_path / "run", peak_tflops=0.5, steps=2, warmup_steps=0), progress=False
    )
    step = next(record for record in result.records if record["kind"] == "step")
    flops = training_flops_per_token(load_config(start), 48) * step["tokens_per_second"]
    assert step["model_flops_per_second"] == pytest.approx(flops)
    assert step["mfu"] == pytest.approx(flops / 0.5e12)
    plain = train_cpt(settings(start, text, tmp_path / "plain", steps=1, warmup_steps=0), progress=False)
    assert [record["mfu"] for record in plain.records if record["kind"] == "step"] == [
        None
    ]  # a CPU's peak is not known


def test_cosine_of_streams_equals_one_by_hand(tiny_checkpoint):
    model = load_model(tiny_checkpoint(4))
    ids = torch.arange(1, 17).reshape(1, 16)
    row = Row(ids[0].numpy(), torch.arange(16).numpy(), ids[0].numpy(), 16)
    batch, loss = make_batch([row]), CausalLoss(model, 64)
    found = stream_cosine(model.model.layers, lambda: loss(batch.ids_BT, batch.position_ids_BT, batch.targets_BT), 4)
    states = model.model(input_ids=ids, return_streams=True, output_hidden_states=True, use_cache=False).hidden_states
    states = [h_BPD.detach() for h_BPD in states]
    for name, h_BPD in {"input": states[0], "middle": states[1], "last": states[2]}.items():
        by_token = h_BPD.reshape(16, 4, -1)
        pairs = [torch.cosine_similarity(token[k], token[3], dim=0) for token in by_token for k in range(3)]
        assert found[name] == pytest.approx(float(torch.stack(pairs).mean()), abs=1e-5)
    assert mean_cosine(states[0][:, -4:].repeat(1, 2, 1) * 0 + 1, 4) == pytest.approx(1)
    assert stream_cosine(model.model.layers, pytest.fail, 1) is None


def test_evaluations_carry_the_cosine_and_are_not_changed_by_it(tiny_checkpoint, text, tmp_path, monkeypatch):
    start = tiny_checkpoint(2)
    with_it = train_cpt(settings(start, text, tmp_path / "with"), progress=False)
    monkeypatch.setattr("hidden_decoding.train.loop.stream_cosine", lambda *_: None)
    without = train_cpt(settings(start, text, tmp_path / "without"), progress=False)
    assert losses(with_it) == losses(without)
    cosines = [record["stream_cosine"] for record in with_it.records if record["kind"] == "evaluation"]
    assert all(set(depths) == {"input", "middle", "last"} for depths in cosines)
    assert all(-1 <= value <= 1 for depths in cosines for value in depths.values())
    assert cosines[0] != cosines[-1]


def curves(directory) -> dict[str, dict[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory))
    events.Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_the_records_also_after_resuming(tiny_checkpoint, text, tmp_path):
    start, out = tiny_checkpoint(2), tmp_path / "run"
    train_cpt(settings(start, text, out, stop_at_step=4, checkpoint_every=3, keep_checkpoints=3), progress=False)
    for shard in (out / "checkpoints" / "step-00000004").iterdir():
        shard.unlink()  # as if killed after step 4 and before its checkpoint
    result = train_cpt(settings(start, text, out, resume=True), progress=False)
    shown = curves(out / "tensorboard")
    for record in result.records:
        if record["kind"] == "step":
            assert shown["step/loss"][record["step"]] == pytest.approx(record["loss"], rel=1e-6)
            assert shown["step/gradient_norms/tables"][record["step"]] == pytest.approx(
                record["gradient_norms"]["tables"], rel=1e-6
            )
        elif record["kind"] == "evaluation":
            assert shown["evaluation/heldout_loss"][record["step"]] == pytest.approx(record["heldout_loss"], rel=1e-6)
            assert "evaluation/stream_cosine/middle" in shown


def test_wandb_and_trackio_take_the_records(tiny_checkpoint, text, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    start, short = tiny_checkpoint(2), {"steps": 2, "warmup_steps": 0}
    train_cpt(settings(start, text, tmp_path / "wandb-run", track="wandb", **short), progress=False)
    (written,) = (tmp_path / "wandb-run" / "wandb").glob("offline-run-*/*.wandb")
    until = time.monotonic() + 60  # a process of its own writes the file
    while b"step/gradient_norms/tables" not in written.read_bytes():
        assert time.monotonic() < until, "no gradient norms in the offline run of wandb"
        time.sleep(0.2)
    result = train_cpt(settings(start, text, tmp_path / "trackio-run", track="trackio", **short), progress=False)
    from trackio.sqlite_storage import SQLiteStorage

    entries = SQLiteStorage.get_logs("hidden-decoding", "trackio-run")
    assert [entry["step/loss"] for entry in entries if "step/loss" in entry] == losses(result)
    assert capsys.readouterr().out == ""


def test_a_tracker_that_is_not_installed_is_named_before_any_work(tiny_checkpoint, text, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DependencyError, match=r"--track wandb needs the package wandb.*pip install wandb"):
        train_cpt(settings(tiny_checkpoint(1), text, tmp_path / "run", track="wandb"), progress=False)
    assert not (tmp_path / "run").exists()
    with caplog.at_level(logging.WARNING):
        train_cpt(settings(tiny_checkpoint(1), text, tmp_path / "run", steps=1, warmup_steps=0), progress=False)
    assert "curves are in metrics.jsonl only" in caplog.text
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["kind"] == "end"


def test_peak_memory_is_this_process_s_own():
    """A small process started by a large one must not report the large one's peak."""
    ballast = bytearray(400_000_000)
    ballast[::4096] = b"x" * len(ballast[::4096])
    code = (
        "import torch; from hidden_decoding.train.metrics import peak_memory_bytes as peak; "
        "print(peak(torch.device('cpu')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    own = this_peak()
    assert int(done.stdout) < own - 200_000_000
    assert len(ballast) == 400_000_000


def this_peak() -> int:
    from hidden_decoding.train.metrics import peak_memory_bytes

    return peak_memory_bytes(torch.device("cpu"))
