"""Fine-tuning that is interrupted or meets a step that is not finite: resumed equals uninterrupted, weights whole."""

from __future__ import annotations

import pytest
import torch

from hidden_decoding.errors import ConfigError
from hidden_decoding.modeling.checkpoint import load_model
from hidden_decoding.train.metrics import read_metrics
from hidden_decoding.train.nonfinite import MOST_SKIPPED
from hidden_decoding.train.sft import train_sft
from hidden_decoding.train.sft_checkpoints import MARK, complete_checkpoints
from hidden_decoding.train.sft_trainer import ChatTrainer
from tests.train.chats import settings, write_chats
from tests.train.support import evaluations, losses


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    return write_chats(tmp_path_factory.mktemp("chats") / "chats.jsonl")


# ----------------------------------------------------------------------------------------------- steps that are broken


def poison(monkeypatch, steps: set[int]) -> None:
    """Makes the loss of some steps NaN, gradients and all."""
    whole = ChatTrainer.compute_loss

    def loss(self, *args, **kwargs):
        value = whole(self, *args, **kwargs)
        return value * float("nan") if self.state.global_step in steps else value

    monkeypatch.setattr(ChatTrainer, "compute_loss", loss)


@pytest.mark.parametrize("way", [{}, {"optimiser": "muon"}, {"clip_norm": 0.0}])
def test_a_step_that_is_not_finite_stops_with_a_record_and_resumes(tiny_checkpoint, chats, tmp_path, monkeypatch, way):
    start, out = tiny_checkpoint(2), tmp_path / "run"
    with monkeypatch.context() as patched:
        poison(patched, {3})
        with pytest.raises(ConfigError, match=r"at step 4 the loss is nan.*--on-nonfinite skip"):
            train_sft(settings(start, chats, out, checkpoint_every=2, **way), progress=False)
    last = read_metrics(out / "metrics.jsonl")[-1]
    assert (last["kind"], last["step"], last["loss"], last["action"]) == ("nonfinite", 4, "nan", "stop")
    resumed = train_sft(settings(start, chats, out, checkpoint_every=2, resume=True, **way), progress=False)
    straight = train_sft(settings(start, chats, tmp_path / "straight", **way), progress=False)
    assert losses(resumed) == losses(straight)


@pytest.mark.parametrize("way", [{}, {"optimiser": "muon"}, {"lora_rank": 4}])
def test_a_step_that_is_not_finite_is_left_out_when_asked(tiny_checkpoint, chats, tmp_path, monkeypatch, way):
    poison(monkeypatch, {1, 3})
    config = settings(tiny_checkpoint(2), chats, tmp_path / "run", on_nonfinite="skip", steps=6, **way)
    result = train_sft(config, progress=False)
    assert [(r["kind"], r["step"]) for r in result.records if r["kind"] in {"step", "nonfinite"}] == [
        ("step", 1),
        ("nonfinite", 2),
        ("step", 3),
        ("nonfinite", 4),
        ("step", 5),
        ("step", 6),
    ]
    assert losses(result)[-1] < losses(result)[0]
    assert all(torch.isfinite(tensor).all() for tensor in load_model(result.model).state_dict().values())


def test_skipping_ends_when_nothing_is_finite_any_more(tiny_checkpoint, chats, tmp_path, monkeypatch):
    poison(monkeypatch, set(range(99)))
    run = settings(tiny_checkpoint(1), chats, tmp_path / "run", on_nonfinite="skip", steps=20, evaluate_every=0)
    with pytest.raises(ConfigError, match=f"after {MOST_SKIPPED} such steps in a row"):
        train_sft(run, progress=False)


# ----------------------------------------------------------------------------------------------- interrupted, resumed

WAYS = {
    "full": {},
    "muon": {"optimiser": "muon"},
    "lora": {"lora_rank": 4, "lora_dropout": 0.2},
    "several epochs": {"epochs": 4, "steps": None},
}


@pytest.mark.parametrize("way", WAYS)
def test_resumed_equals_uninterrupted(tiny_checkpoint, chats, tmp_path, way):
    def run(out, **changes):
        return train_sft(settings(tiny_checkpoint(2), chats, tmp_path / out, **WAYS[way], **changes), progress=False)

    whole = run("whole")
    stopped = run("parts", stop_at_step=3, checkpoint_every=1)
    assert stopped.model is None
    assert [path.name for path in complete_checkpoints(tmp_path / "parts")] == ["checkpoint-2", "checkpoint-3"]
    # The newest is torn: as if the process had been killed while it was written.
    torn = tmp_path / "parts" / "checkpoints" / "checkpoint-3"
    (torn / MARK).unlink()
    (torn / "optimizer.pt").write_bytes(b"half")
    resumed = run("parts", resume=True)
    assert losses(resumed) == losses(whole)
    assert evaluations(resumed) == evaluations(whole)
    counted = ("step", "tokens", "learned_tokens", "heldout_loss")
    assert [getattr(resumed, name) for name in counted] == [getattr(whole, name) for name in counted]
    for (name, one), other in zip(
        load_model(whole.model).named_parameters(), load_model(resumed.model).parameters(), strict=True
    ):
        assert torch.equal(one, other), name


def test_resume_refuses_other_settings_and_other_chats(tiny_checkpoint, chats, tmp_path):
    model = tiny_checkpoint(1)
    train_sft(settings(model, chats, tmp_path / "run", stop_at_step=1), progress=False)
    with pytest.raises(ConfigError, match="holds a run already; continue it with --resume"):
        train_sft(settings(model, chats, tmp_path / "run"), progress=False)
    with pytest.raises(ConfigError, match=r"weight_decay: 0\.1 then, 0\.0 now"):
        train_sft(settings(model, chats, tmp_path / "run", resume=True, weight_decay=0.0), progress=False)
    fewer = write_chats(tmp_path / "fewer.jsonl", 20)
    with pytest.raises(ConfigError, match="samples: "):
        train_sft(settings(model, fewer, tmp_path / "run", resume=True), progress=False)
