"""Settings: kinds, limits, and that what cannot work is refused before weights are read."""

from __future__ import annotations

import shutil

import pytest

from hidden_decoding.errors import CheckpointError, ConfigError
from hidden_decoding.train.config import CptConfig, OptimiserSettings, ScheduleSettings
from hidden_decoding.train.loop import train_cpt
from hidden_decoding.train.optimiser import learning_rate
from tests.train.support import settings, write_corpus

ENOUGH = {"model": "m", "data": ("d",), "out": "o"}


def test_text_that_is_a_number_counts_as_one():
    """YAML reads `1e-3` as text."""
    config = CptConfig.build(**ENOUGH, learning_rate="1e-3", steps="20")
    assert config.optimiser.learning_rate == 1e-3
    assert config.schedule.steps == 20


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": 2.5}, "kind int"),
        ({"steps": "many"}, "steps is 'many'"),
        ({"steps": True}, "kind int"),
        ({"gradient_checkpointing": "yes"}, "kind bool"),
        ({"warmup_steps": 10, "steps": 10}, "below the 10 steps"),
        ({"learning_rate": 0}, "learning_rate is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"tokens_per_sequence": 1}, "tokens_per_sequence is 1"),
        ({"heldout_fraction": 1.0}, "heldout_fraction is 1.0"),
        ({"precision": "fp8"}, "one of fp32, bf16"),
        ({"data": ()}, "at least one file"),
        ({"data": (1, 2)}, "list of texts"),
        ({"stop_at_step": 9, "steps": 8}, "only 8 steps"),
        ({"stepz": 3}, "unknown setting 'stepz'"),
    ],
)
def test_values_that_cannot_work_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        CptConfig.build(**{**ENOUGH, **changes})


def test_schedule_warms_up_peaks_and_ends_low():
    schedule = ScheduleSettings(steps=100, warmup_steps=10, final_fraction=0.1)
    rates = [learning_rate(step, 1.0, schedule) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.55)
    assert rates[100] == pytest.approx(0.1)


def test_norm_weights_are_not_decayed(tiny_checkpoint):
    from hidden_decoding.modeling.checkpoint import load_model
    from hidden_decoding.train.optimiser import make_optimisers

    model = load_model(tiny_checkpoint(2))
    (optimiser,) = make_optimisers(model, OptimiserSettings(weight_decay=0.3))
    decayed = [p for group in optimiser.param_groups for p in group["params"] if group["weight_decay"] == 0.3]
    kept = [p for group in optimiser.param_groups for p in group["params"] if group["weight_decay"] == 0]
    assert len(decayed) + len(kept) == len(list(model.parameters()))
    assert {id(p) for p in kept} == {id(p) for name, p in model.named_parameters() if "norm" in name}


@pytest.fixture
def no_weights(tiny_checkpoint, tmp_path):
    """A checkpoint without its weights: whatever is refused for another reason was refused before reading them."""
    directory = shutil.copytree(tiny_checkpoint(4), tmp_path / "no-weights")
    (directory / "model.safetensors").unlink()
    return directory


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokens_per_sequence": 300}, r"300, which at n = 4 are 1200 positions.*1024 positions = 256 tokens"),
        ({"data": ("nowhere.txt",)}, "no file or directory nowhere.txt"),
        ({"heldout_fraction": 0.999}, "too little to set aside"),
    ],
)
def test_impossible_runs_are_refused_before_weights_are_read(no_weights, tmp_path, changes, words):
    data = write_corpus(tmp_path / "text.jsonl")
    with pytest.raises(ConfigError, match=words):
        train_cpt(settings(no_weights, data, tmp_path / "run", **changes), progress=False)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):  # without the mistake, the weights are missed
        train_cpt(settings(no_weights, data, tmp_path / "run2"), progress=False)


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(tiny_checkpoint, tmp_path):
    from tests.support import tiny_tokenizer

    directory = shutil.copytree(tiny_checkpoint(1), tmp_path / "m")
    tiny_tokenizer(600).save_pretrained(directory)
    data = write_corpus(tmp_path / "text.jsonl")
    with pytest.raises(CheckpointError, match="600 tokens but the model's vocabulary only 512"):
        train_cpt(settings(directory, data, tmp_path / "run"), progress=False)
