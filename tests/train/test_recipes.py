"""Every recipe for a public base, dry: read by the command's own parser, built on the meta device, planned."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import pytest

from hidden_decoding.cli.main import main
from hidden_decoding.cli.train_plan import configurations
from hidden_decoding.modeling.config_file import published_config_dict
from hidden_decoding.train.plan import plan_run, planned_config
from hidden_decoding.train.plan_settings import PlanSettings
from hidden_decoding.upcycling.config import UpcycleConfig
from hidden_decoding.upcycling.plan import grown_config

RECIPES = Path(__file__).parents[2] / "recipes"
CPT = ["qwen3-0.6b", "qwen3-1.7b", "qwen3-8b"]
PARAMETERS = {"qwen3-0.6b": 0.44, "qwen3-1.7b": 1.41, "qwen3-8b": 6.95}  # the layers alone, billions


def read(name: str, *, sft: bool, model: str | None = None):
    return configurations(argparse.Namespace(config=str(RECIPES / f"{name}.yaml"), model=model, sft=sft))


def test_all_recipes_are_tested():
    names = {path.stem for path in RECIPES.glob("qwen3-*.yaml")}
    assert names == {*CPT, *(f"{name}-sft" for name in CPT)}


@pytest.mark.parametrize("name", CPT)
def test_published_stages(name, capsys):
    stages = read(name, sft=False)
    assert [(stage.model.streams, stage.model.positions) for stage in stages] == [
        (2, "contiguous"),
        (4, "contiguous"),
        (8, "contiguous"),
    ]
    assert all(stage.model.noise == 0 for stage in stages)
    plans = plan_run(stages, PlanSettings(gpus=64))
    read_so_far = [sum(plan.tokens for plan in plans[: k + 1]) / 1e9 for k in range(3)]
    assert read_so_far == pytest.approx([75, 150, 187], abs=0.01)
    tables = [(2 + k, 151936) for k in (1, 3, 7)]
    width = plans[1].parameters - plans[0].parameters
    assert width % (2 * 151936) == 0, "each stage adds whole tables"
    backbone = plans[0].parameters - tables[0][0] * width // 2
    assert backbone / 1e9 == pytest.approx(PARAMETERS[name], abs=0.01)
    assert all(plan.fits for plan in plans)
    assert main(["train", "plan", "-c", str(RECIPES / f"{name}.yaml"), "--gpus", "64"]) == 0
    assert "187.0 B" in capsys.readouterr().out


@pytest.mark.parametrize("name", CPT)
def test_published_fine_tuning(name, tmp_path):
    (config,) = read(f"{name}-sft", sft=True, model=f"Qwen/Qwen3-{name.partition('-')[2].upper()}-Base")
    optimiser, schedule = config.optimiser, config.schedule
    assert (optimiser.optimiser, optimiser.beta1, optimiser.beta2) == ("muon", 0.9, 0.95)
    assert (optimiser.learning_rate, optimiser.weight_decay, optimiser.clip_norm) == (2e-5, 0.1, 1.0)
    assert (schedule.schedule, schedule.warmup_steps, schedule.steps, schedule.final_fraction) == (
        "cosine",
        56,
        1125,
        0,
    )
    assert config.run.precision == "bf16"
    (plan,) = plan_run([config], PlanSettings(gpus=8))
    assert (plan.streams, plan.fits) == (1, True)
    # The n = 8 model on the same GPUs: the two small ones whole in each, the large one only when they share it.
    grown = grown_config(planned_config(config.model.model), UpcycleConfig(streams=8), where="the test")
    (tmp_path / "config.json").write_text(json.dumps(published_config_dict(grown)), encoding="utf-8")
    fits = {}
    for shard in (False, True):
        large = dataclasses.replace(
            config,
            model=dataclasses.replace(config.model, model=str(tmp_path)),
            run=dataclasses.replace(config.run, shard=shard),
        )
        (plan,) = plan_run([large], PlanSettings(gpus=8))
        assert plan.streams == 8
        fits[shard] = plan.fits
    assert fits == {False: name != "qwen3-8b", True: True}
    assert config.run.shard == (name == "qwen3-8b")
