"""A run that adds streams: from a plain base at once, and doubling in stages on fresh rows."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch._dynamo.utils import counters

from hidden_decoding import upcycle
from hidden_decoding.errors import ConfigError
from hidden_decoding.modeling.checkpoint import load_config, load_model
from hidden_decoding.train.loop import train_cpt
from hidden_decoding.train.metrics import read_metrics
from hidden_decoding.train.stages import chain_stages, train_stages
from tests.support import save_tiny_checkpoint
from tests.train.support import evaluations, losses, settings, write_corpus


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("text") / "text.jsonl")


@pytest.mark.parametrize("positions", ["linear", "contiguous"])
def test_streams_in_the_settings_are_upcycling_before_training(tiny_checkpoint, text, tmp_path, positions):
    base = tiny_checkpoint(1)
    grown = {"streams": 2, "positions": positions, "noise": 0.1}
    at_once = train_cpt(settings(base, text, tmp_path / "once", **grown), progress=False)
    apart = upcycle(base, 2, tmp_path / "n2", positions=positions, noise=0.1, progress=False)
    by_hand = train_cpt(settings(apart, text, tmp_path / "apart"), progress=False)
    assert at_once.streams == 2
    assert losses(at_once) == losses(by_hand)
    assert evaluations(at_once) == evaluations(by_hand)
    assert load_config(at_once.model).rope_parameters == load_config(apart).rope_parameters
    assert not (tmp_path / "once" / "start").exists()


def test_a_run_that_adds_streams_resumes_from_its_own_start(tiny_checkpoint, text, tmp_path):
    base, grown = tiny_checkpoint(1), {"streams": 2, "noise": 0.1}
    straight = train_cpt(settings(base, text, tmp_path / "straight", **grown), progress=False)
    train_cpt(settings(base, text, tmp_path / "parted", stop_at_step=3, **grown), progress=False)
    assert (tmp_path / "parted" / "start" / "config.json").is_file()
    resumed = train_cpt(settings(base, text, tmp_path / "parted", resume=True, **grown), progress=False)
    assert losses(resumed) == losses(straight)


def stages(base, text, out, streams=(2, 4), **changes):
    return chain_stages([settings(base, text, out, streams=n, **changes) for n in streams])


def test_each_stage_continues_the_one_before_on_fresh_rows(tiny_checkpoint, text, tmp_path):
    base = tiny_checkpoint(1)
    first, second = train_stages(stages(base, text, tmp_path / "run"), progress=False)
    assert (first.streams, second.streams) == (2, 4)
    alone = train_cpt(settings(base, text, tmp_path / "n2", streams=2), progress=False)
    assert losses(alone) == losses(first)
    later = settings(alone.model, text, tmp_path / "n4", streams=4, skip_sequences=24)  # 6 steps of 4 rows
    assert losses(train_cpt(later, progress=False)) == losses(second)
    link = tmp_path / "run" / "model"
    assert link.is_symlink()
    assert load_config(link).num_streams == 4
    again = dataclasses.replace(later, run=dataclasses.replace(later.run, out=str(tmp_path / "same-rows")))
    again = dataclasses.replace(again, data=dataclasses.replace(again.data, skip_sequences=0))
    assert losses(train_cpt(again, progress=False)) != losses(second)


def test_stages_resume_where_they_stopped(tiny_checkpoint, text, tmp_path):
    base, out = tiny_checkpoint(1), tmp_path / "run"
    straight = train_stages(stages(base, text, tmp_path / "straight"), progress=False)
    begun = stages(base, text, out)
    stopping = dataclasses.replace(begun[1], run=dataclasses.replace(begun[1].run, stop_at_step=2))
    train_stages([begun[0], stopping], progress=False)
    assert not (out / "model").exists()
    (resumed,) = train_stages(stages(base, text, out, resume=True), progress=False)
    assert losses(resumed) == losses(straight[1])
    whole, parted = (load_model(path / "model").state_dict() for path in (tmp_path / "straight", out))
    assert all(torch.equal(whole[name], parted[name]) for name in whole)
    assert [r["kind"] for r in read_metrics(out / "stage-1" / "metrics.jsonl")][-1] == "end"
    with pytest.raises(ConfigError, match="holds a finished run"):
        train_stages(stages(base, text, out, resume=True), progress=False)


def test_a_stage_with_data_of_its_own_begins_at_its_first_row(tiny_checkpoint, text, tmp_path):
    other = write_corpus(tmp_path / "other.jsonl", 20_000, longest=200)
    first, second, third = (settings(tiny_checkpoint(1), path, tmp_path / "run") for path in (text, text, other))
    skipped = [stage.data.skip_sequences for stage in chain_stages([first, second, third])]
    assert skipped == [0, 24, 0]


def test_impossible_stages_are_refused_before_anything_is_written(tiny_checkpoint, text, tmp_path):
    with pytest.raises(ConfigError, match="stage 2 asks for 3 streams, but starts from 2"):
        train_stages(stages(tiny_checkpoint(1), text, tmp_path / "run", streams=(2, 3)), progress=False)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="positions is 'linear'; it must be left out unless streams"):
        settings(tiny_checkpoint(1), text, tmp_path / "run", positions="linear")


def test_rows_skipped_are_the_rows_another_run_read(tiny_checkpoint, text, tmp_path):
    run = settings(tiny_checkpoint(2), text, tmp_path / "run", skip_sequences=8)
    train_cpt(run, progress=False)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"]["skip_sequences"] == 8


def test_compiled_layers_compute_what_plain_ones_do(text, tmp_path):
    start = save_tiny_checkpoint(
        tmp_path / "start", 2, num_hidden_layers=1
    )  # one layer, no evaluation: one compilation
    short = {"steps": 3, "warmup_steps": 1, "evaluate_every": 0}
    plain = train_cpt(settings(start, text, tmp_path / "plain", **short), progress=False)
    counters.clear()
    fast = train_cpt(settings(start, text, tmp_path / "fast", compile=True, **short), progress=False)
    assert losses(fast) == pytest.approx(losses(plain), abs=2e-4)
    assert counters["stats"]["unique_graphs"] >= 1
