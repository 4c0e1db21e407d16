"""The planner against what is known: published sizes, arithmetic by hand, and the memory of a real process."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from hidden_decoding.cli.main import main
from hidden_decoding.errors import CheckpointError, ConfigError
from hidden_decoding.modeling.checkpoint import load_config
from hidden_decoding.modeling.flops import forward_flops_per_token, training_flops_per_token
from hidden_decoding.train.config import CptConfig
from hidden_decoding.train.plan import Sizes, memory_need, plan_run, planned_config
from hidden_decoding.train.plan_settings import PlanSettings
from hidden_decoding.train.sft_config import SftConfig

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "benchmarks" / "records" / "train_memory.json"


def run(model, **changes) -> CptConfig:
    values = {"data": ("d",), "out": "o", "tokens_per_sequence": 128, "sequences_per_step": 8, "steps": 100}
    return CptConfig.build(model=str(model), **{**values, **changes})


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_memory", ROOT / "benchmarks" / "train_memory.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("processes", [1, 2])
def test_memory_of_a_real_run_is_predicted_within_a_tenth(script, processes):
    found = script.compare({"streams": 4, "gradient_checkpointing": False, "precision": "fp32", "processes": processes})
    assert found["taken_bytes"] > 2 * found["predicted"]["weights"]
    assert found["predicted_over_taken"] == pytest.approx(1, abs=0.1)


def test_the_kept_record_is_within_a_tenth_and_of_this_planner(script, tmp_path):
    """Every case that was measured; and the planner still predicts what the record says it did."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    cases = {(c["streams"], c["gradient_checkpointing"], c["precision"], c["processes"]): c for c in record["cases"]}
    assert len(cases) == len(script.CASES)
    for n in (1, 4):
        model = script.make_model(tmp_path / f"n{n}", n, script.SHAPE)
        for checkpointing, processes in ((False, 1), (True, 1), (False, 2), (True, 2)):
            case = cases[n, checkpointing, "fp32", processes]
            assert case["predicted_over_taken"] == pytest.approx(1, abs=0.1)
            assert script.predicted(model, case)["total"] == pytest.approx(case["predicted"]["total"], rel=0.01)
    assert all(case["predicted_over_taken"] == pytest.approx(1, abs=0.1) for case in cases.values())


def test_speed_time_and_cost_by_hand(tiny_checkpoint):
    machine = PlanSettings(gpus=4, peak_tflops=2.0, mfu=0.5, price_per_gpu_hour=3.0)
    (plan,) = plan_run([run(tiny_checkpoint(4))], machine)
    flops = training_flops_per_token(load_config(tiny_checkpoint(4)), 128)
    assert plan.tokens == 100 * 8 * 128
    assert plan.positions == 4 * plan.tokens
    assert plan.tokens_per_second == pytest.approx(4 * 2e12 * 0.5 / flops)
    assert plan.positions_per_second == pytest.approx(4 * plan.tokens_per_second)
    assert plan.hours == pytest.approx(plan.tokens * flops / 4e12 / 3600)
    assert plan.cost == pytest.approx(plan.hours * 4 * 3.0)


def test_weights_gradients_and_optimiser_by_hand(tiny_checkpoint):
    """Four bytes a parameter each, eight for AdamW; halved on two GPUs; less with Muon, adapters and frozen groups."""
    config = load_config(tiny_checkpoint(2))
    stage = run(tiny_checkpoint(2))
    sizes = Sizes.of(config, stage)
    one, two = (memory_need(config, stage, sizes, gpus) for gpus in (1, 2))
    assert (one.weights, one.optimiser, one.working) == (4 * sizes.total, 8 * sizes.total, 0)
    assert (two.weights, two.optimiser) == (one.weights // 2, one.optimiser // 2)
    assert two.working > 0
    matrices = sum(w.numel() for name, w in _weights(config) if ".layers." in name and w.ndim == 2)
    muon = Sizes.of(config, run(tiny_checkpoint(2), optimiser="muon"))
    assert muon.optimiser_bytes == 8 * sizes.total - 4 * matrices
    frozen = Sizes.of(config, run(tiny_checkpoint(2), backbone_rate=0.0))
    assert frozen.trained == 2 * 512 * 64  # one added table and the head
    whole, frozen_base = (
        plan_run([SftConfig.build(model=str(tiny_checkpoint(2)), data=("d",), out="o", steps=1, lora_rank=rank,
                                  tokens_per_sequence=128)], PlanSettings())[0].flops_per_token
        for rank in (0, 2)
    )  # fmt: skip
    forward = forward_flops_per_token(config, 128)
    assert whole - frozen_base == pytest.approx(forward.layers + forward.head), "no gradient of frozen matrices"
    lora = SftConfig.build(model="m", data=("d",), out="o", steps=1, lora_rank=2, tokens_per_sequence=128)
    adapters = Sizes.of(config, lora).trained
    assert adapters == sum(2 * sum(w.shape) for name, w in _weights(config) if "_proj" in name)
    checkpointed = memory_need(config, run(tiny_checkpoint(2), gradient_checkpointing=True), sizes, 1)
    assert checkpointed.activations < one.activations


def _weights(config):
    import torch

    from hidden_decoding.modeling.model import Qwen3ScaleSeqForCausalLM

    with torch.device("meta"):
        return list(Qwen3ScaleSeqForCausalLM(config).named_parameters())


def test_published_sizes():
    """method.md section 2: 8.81, 10.06 and 12.55 billion parameters, known without a network."""
    base = planned_config("Qwen/Qwen3-8B-Base")
    stages = [
        run("Qwen/Qwen3-8B-Base", streams=n, positions="contiguous", attention="flash_attention_2") for n in (2, 4, 8)
    ]
    plans = plan_run(stages, PlanSettings(gpus=8))
    assert [round(plan.parameters / 1e9, 2) for plan in plans] == [8.81, 10.06, 12.55]
    assert round(Sizes.of(base, stages[0]).total / 1e9, 2) == 8.19
    assert plans[2].flops_per_token > 3.5 * plans[0].flops_per_token  # the head counts once, attention for n * T


def test_works_from_a_config_alone(tiny_checkpoint, tmp_path):
    (tmp_path / "config.json").write_bytes((tiny_checkpoint(2) / "config.json").read_bytes())
    for given in (tmp_path, tmp_path / "config.json"):
        assert planned_config(str(given)).num_streams == 2
    with pytest.raises(CheckpointError, match=r"give a config\.json with --model"):
        planned_config("nobody/nothing")


def test_the_command(tiny_checkpoint, tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text(
        f"model: {{model: {tiny_checkpoint(1)}}}\ndata: {{tokens_per_sequence: 64}}\nrun: {{sequences_per_step: 4}}\n"
        "stages:\n  - {model: {streams: 2}, schedule: {steps: 10}}\n  - {model: {streams: 4}, schedule: {steps: 5}}\n"
    )
    assert main(["train", "plan", "-c", str(file), "--gpus", "2", "--price-per-gpu-hour", "2", "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert [(stage["streams"], stage["tokens"]) for stage in stages] == [(2, 10 * 4 * 64), (4, 5 * 4 * 64)]
    assert main(["train", "plan", "-c", str(file)]) == 0
    out = capsys.readouterr().out
    assert "positions/s" in out
    assert "GiB on one GPU" in out
    small = ["--gpu-memory", "0.001", "--gpu-overhead", "0"]
    assert main(["train", "plan", "-c", str(file), *small]) == 1
    assert "stage 1 does not fit" in capsys.readouterr().out
    for arguments, words in (
        (["-c", str(file), "--gpus", "3"], "3 GPUs cannot share evenly"),
        (["-c", str(file), "--mfu", "2"], "mfu is 2.0; it must be a share"),
        (["-c", str(tmp_path / "none.yaml")], "no run file"),
    ):
        assert main(["train", "plan", *arguments]) == 2
        assert words in capsys.readouterr().err


def test_chats_need_steps(tiny_checkpoint):
    config = SftConfig.build(model=str(tiny_checkpoint(1)), data=("d",), out="o", tokens_per_sequence=128)
    with pytest.raises(ConfigError, match=r"give schedule\.steps"):
        plan_run([config], PlanSettings())
