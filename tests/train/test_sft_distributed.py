"""Two processes under torchrun fine-tune as one does, with a copy of the model in each or sharded: the same rows in
each step, the same losses; and a sharded run goes on from its own checkpoint."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import yaml

from hidden_decoding.errors import ConfigError
from hidden_decoding.modeling.checkpoint import load_config, load_model
from hidden_decoding.train.metrics import read_metrics
from hidden_decoding.train.sft import train_sft
from tests.equivalence.tolerances import BF16_LOSS, FP32_GRADIENT_RELATIVE
from tests.train.chats import settings, write_chats
from tests.train.support import evaluations, losses, plain
from tests.train.test_distributed import LOSS_TOLERANCE, QUIET

PLAIN = ["-m", "hidden_decoding.cli.main", "train", "sft", "-q", "-c"]
SHARDED = ["-m", "tests.train.sharded_sft"]
WAYS = {
    "a copy in each": (PLAIN, {}),
    "sharded": (SHARDED, {"shard": True}),
    "sharded, muon": (SHARDED, {"shard": True, "optimiser": "muon"}),
    "sharded, checkpointing": (SHARDED, {"shard": True, "gradient_checkpointing": True}),
}


def numbers(records: list[dict], kind: str, name: str) -> list[float]:
    return [record[name] for record in records if record["kind"] == kind]


def torchrun(verb: list[str], config, run_file) -> tuple[list[dict], str]:
    """Runs two processes; returns their records and what they said."""
    run_file.write_text(yaml.safe_dump(plain(config.as_dict())), encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, *verb, str(run_file)],
        capture_output=True,
        text=True,
        timeout=300,
        env=QUIET,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return read_metrics(run_file.parent / config.run.out / "metrics.jsonl"), done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_two_processes_equal_one(tiny_checkpoint, tmp_path, way):
    verb, changes = WAYS[way]
    alone = {name: value for name, value in changes.items() if name != "shard"}
    start, chats = tiny_checkpoint(2), write_chats(tmp_path / "chats.jsonl")
    one = train_sft(settings(start, chats, tmp_path / "one", **alone), progress=False)
    two, said = torchrun(verb, settings(start, chats, tmp_path / "two", **changes), tmp_path / "two.yaml")
    assert (two[0]["processes"], two[0]["sharded"]) == (2, "shard" in changes)
    assert two[0]["parameters"] == one.records[0]["parameters"]
    assert numbers(two, "step", "loss") == pytest.approx(losses(one), abs=LOSS_TOLERANCE)
    for kind, name in (("step", "tokens"), ("step", "learned_tokens"), ("evaluation", "heldout_tokens")):
        assert numbers(two, kind, name) == numbers(one.records, kind, name), name
    held = numbers(two, "evaluation", "heldout_loss")
    assert held == pytest.approx(evaluations(one), abs=LOSS_TOLERANCE)
    norms = [next(r for r in records if r["kind"] == "step") for records in (two, one.records)]
    assert norms[0]["gradient_norm"] == pytest.approx(norms[1]["gradient_norm"], rel=FP32_GRADIENT_RELATIVE)
    assert norms[0]["gradient_norms"] == pytest.approx(norms[1]["gradient_norms"], rel=FP32_GRADIENT_RELATIVE)
    assert two[1]["stream_cosine"] == pytest.approx(one.records[1]["stream_cosine"], abs=1e-5)
    assert said.count("held-out loss") == len(held), "one process speaks"
    assert load_config(tmp_path / "two" / "model").num_streams == 2
    weights, both = (load_model(path / "model").state_dict() for path in (tmp_path / "one", tmp_path / "two"))
    for name, weight in weights.items():
        assert float((weight - both[name]).abs().double().mean()) < 2e-5, name


@pytest.mark.slow
def test_sharded_in_bf16_is_near(tiny_checkpoint, tmp_path):
    """Weights are gathered in bfloat16, gradients added up and kept in float32."""
    start, chats = tiny_checkpoint(2), write_chats(tmp_path / "chats.jsonl")
    one = train_sft(settings(start, chats, tmp_path / "one"), progress=False)
    config = settings(start, chats, tmp_path / "two", shard=True, precision="bf16")
    two, _ = torchrun(SHARDED, config, tmp_path / "two.yaml")
    assert numbers(two, "step", "loss") == pytest.approx(losses(one), abs=BF16_LOSS)
    assert numbers(two, "step", "loss") != losses(one)
    assert numbers(two, "evaluation", "heldout_loss") == pytest.approx(evaluations(one), abs=BF16_LOSS)
    assert load_model(tmp_path / "two" / "model").dtype == torch.float32, "the start's"


@pytest.mark.slow
def test_a_sharded_run_and_its_control(tiny_checkpoint, tmp_path):
    """Two models one after the other in the same processes, as the recipe for 8B trains them."""
    start, chats = tiny_checkpoint(2), write_chats(tmp_path / "chats.jsonl")
    both = {"control": str(tiny_checkpoint(1)), "optimiser": "muon"}
    one = train_sft(settings(start, chats, tmp_path / "one", **both), progress=False)
    two, _ = torchrun(SHARDED, settings(start, chats, tmp_path / "two", shard=True, **both), tmp_path / "two.yaml")
    control = read_metrics(tmp_path / "two" / "control" / "metrics.jsonl")
    for records, alone in ((two, one), (control, one.control)):
        assert records[0]["sharded"]
        assert numbers(records, "step", "loss") == pytest.approx(losses(alone), abs=LOSS_TOLERANCE)
    assert load_config(tmp_path / "two" / "control" / "model").num_streams == 1


@pytest.mark.slow
@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_sharded_run_goes_on_from_its_checkpoint(tiny_checkpoint, tmp_path, optimiser):
    start, chats = tiny_checkpoint(2), write_chats(tmp_path / "chats.jsonl")
    one = train_sft(settings(start, chats, tmp_path / "one", optimiser=optimiser), progress=False)
    same = {"shard": True, "optimiser": optimiser}
    torchrun(SHARDED, settings(start, chats, tmp_path / "two", **same, stop_at_step=2), tmp_path / "begin.yaml")
    assert not (tmp_path / "two" / "model").exists()
    two, _ = torchrun(SHARDED, settings(start, chats, tmp_path / "two", **same, resume=True), tmp_path / "rest.yaml")
    assert numbers(two, "step", "step") == [1, 2, 3, 4]
    assert numbers(two, "step", "loss") == pytest.approx(losses(one), abs=LOSS_TOLERANCE)
    assert load_model(tmp_path / "two" / "model").config.num_streams == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"lora_rank": 4}, "drop one of the two"), ({}, "needs GPUs")],
)
def test_what_cannot_be_sharded_is_refused(tiny_checkpoint, tmp_path, monkeypatch, changes, words):
    monkeypatch.setenv("WORLD_SIZE", "2")
    chats = write_chats(tmp_path / "chats.jsonl")
    with pytest.raises(ConfigError, match=words):
        train_sft(settings(tiny_checkpoint(2), chats, tmp_path / "run", shard=True, **changes), progress=False)


def test_one_process_has_nothing_to_share(tiny_checkpoint, tmp_path):
    chats = write_chats(tmp_path / "chats.jsonl")
    copied, alone = (
        train_sft(
            settings(tiny_checkpoint(2), chats, tmp_path / f"{shard}", shard=shard, steps=1, warmup_steps=0),
            progress=False,
        )
        for shard in (False, True)
    )
    assert losses(copied) == losses(alone)
