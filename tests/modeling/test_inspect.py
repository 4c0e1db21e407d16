"""`inspect_checkpoint` and the memory plan: the published figures, and what the headers say."""

import json
from dataclasses import replace

import pytest
import torch

from hidden_decoding.errors import CheckpointError, ConfigError
from hidden_decoding.modeling.inspection import Context, inspect_checkpoint
from hidden_decoding.modeling.memory_plan import GIB, MemoryPlanConfig, plan_memory
from tests.modeling.damage import PUBLISHED_8B_N8, copy_of, corrupt_header, edit_config, edit_weights, shard
from tests.support import plain_qwen3, tiny_model


def config_only(directory, **changes):
    (directory / "config.json").write_text(json.dumps({**PUBLISHED_8B_N8, **changes}))
    return directory


def test_the_published_8b_shape_from_its_config_alone(tmp_path):
    found = inspect_checkpoint(config_only(tmp_path))
    assert found.streams == 8
    counts = found.parameters
    millions = [round(count / 1e6) for count in (counts.total, counts.input_embeddings, counts.lm_head)]
    assert millions == [12547, 4979, 622]
    assert counts.backbone + counts.input_embeddings + counts.lm_head == counts.total
    assert found.kv_bytes_per_token == 1_179_648
    assert found.weight_bytes == 2 * counts.total
    assert found.context == Context(tokens=16384, positions=131072)
    assert found.position_scheme == "contiguous"
    assert (found.missing, found.unexpected, found.misshapen) == (None, None, None)


@pytest.mark.parametrize(("times", "total"), [(0, 8190735360), (1, 8813065216), (3, 10057724928)])
def test_totals_of_the_other_published_sizes(times, total, tmp_path):
    """8.19B is Qwen3-8B itself; each extra table adds V * D = 622,329,856."""
    assert inspect_checkpoint(config_only(tmp_path, scale_seq_times=times)).parameters.total == total


def test_the_path_of_a_config_file_works(tmp_path):
    assert inspect_checkpoint(config_only(tmp_path) / "config.json").streams == 8


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_whole_checkpoint_agrees_with_the_model(n, tiny_checkpoint):
    found = inspect_checkpoint(tiny_checkpoint(n))
    model = tiny_model(n)
    assert found.parameters.total == sum(weight.numel() for weight in model.parameters())
    assert found.parameters.input_embeddings == n * model.lm_head.weight.numel()
    assert found.weight_bytes == 4 * found.parameters.total
    assert found.extra_table_bytes == 4 * (n - 1) * model.lm_head.weight.numel()
    assert (found.missing, found.unexpected, found.misshapen) == ([], [], {})
    cache = model(torch.arange(10)[None]).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert found.kv_bytes_per_token * 10 == held


@pytest.mark.parametrize(("positions", "scheme"), [("contiguous", "contiguous"), ("linear", "linear")])
def test_the_position_scheme(positions, scheme, tiny_checkpoint):
    assert inspect_checkpoint(tiny_checkpoint(4, positions)).position_scheme == scheme


def test_tied_heads_count_once(tmp_path):
    model = tiny_model(2, tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    counts = inspect_checkpoint(tmp_path).parameters
    assert counts.lm_head == 0
    assert counts.total == sum(weight.numel() for weight in model.parameters())


def test_differences_are_reported_not_raised(tiny_checkpoint, tmp_path):
    directory = copy_of(tiny_checkpoint(4), tmp_path / "n4")
    edit_weights(directory, lambda w: [w.pop("model.norm.weight"), w.update({"stray": torch.ones(1)})])
    edit_weights(directory, lambda w: w.update({"lm_head.weight": torch.ones(2, 64)}))
    found = inspect_checkpoint(directory)
    assert (found.missing, found.unexpected) == (["model.norm.weight"], ["stray"])
    assert found.misshapen == {"lm_head.weight": [[2, 64], [512, 64]]}


def test_plain_weights_under_a_config_of_four_streams_lack_three_tables(tmp_path):
    plain_qwen3(tiny_model(1)).save_pretrained(tmp_path)
    edit_config(tmp_path, model_type="qwen3_scale_seq", architectures=None, scale_seq_times=3)
    assert inspect_checkpoint(tmp_path).missing == [f"model.scale_seq_embed_tokens_list.{k}.weight" for k in range(3)]


def test_broken_files_are_raised(tiny_checkpoint, tmp_path):
    with pytest.raises(CheckpointError):
        inspect_checkpoint(corrupt_header(copy_of(tiny_checkpoint(2), tmp_path / "corrupt")))
    sharded = copy_of(tiny_checkpoint(2), tmp_path / "sharded")
    shard(sharded)
    (sharded / "model-00001-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00001-of-00003"):
        inspect_checkpoint(sharded)


# ---------------------------------------------------------------------------------------------------------------- plan


@pytest.fixture
def published(tmp_path):
    return inspect_checkpoint(config_only(tmp_path))


def test_a_plan_on_one_gpu(published):
    """By hand: 0.9 * 80 GiB - 25,094,088,704 bytes = 52,215,324,467; divided by 1,179,648 a token: 44,263."""
    plan = plan_memory(published, MemoryPlanConfig(gpus=1, gpu_memory=80.0))
    assert plan.weight_bytes_per_gpu == 25_094_088_704
    assert plan.kv_budget_bytes_per_gpu == int(0.9 * 80 * GIB) - 25_094_088_704
    assert plan.tokens == plan.kv_budget_bytes_per_gpu // 1_179_648 == 44263
    assert plan.positions == 44263 * 8
    assert plan.full_contexts == 2.7
    assert plan.extra_table_bytes_per_gpu == 7 * 151936 * 4096 * 2
    assert plan.fits


def test_more_gpus_split_weights_and_kv_heads(published):
    one = plan_memory(published, MemoryPlanConfig(gpus=1, gpu_memory=80.0))
    four = plan_memory(published, MemoryPlanConfig(gpus=4, gpu_memory=80.0))
    assert four.kv_bytes_per_token_per_gpu * 4 == one.kv_bytes_per_token_per_gpu
    assert four.tokens > 4 * one.tokens
    sixteen = plan_memory(published, MemoryPlanConfig(gpus=16, gpu_memory=80.0))
    assert sixteen.kv_bytes_per_token_per_gpu * 8 == one.kv_bytes_per_token_per_gpu  # 8 KV heads: no further split
    assert any("each KV head is kept on several GPUs" in note for note in sixteen.notes)


def test_a_model_that_does_not_fit(published):
    plan = plan_memory(published, MemoryPlanConfig(gpus=1, gpu_memory=24.0))
    assert (plan.fits, plan.tokens, plan.positions, plan.kv_budget_bytes_per_gpu) == (False, 0, 0, 0)
    assert any("no room" in note for note in plan.notes)


def test_a_context_that_does_not_fit_is_noted(published):
    plan = plan_memory(replace(published, weight_bytes=0), MemoryPlanConfig(gpu_memory=10.0))
    assert 0 < plan.tokens < 16384
    assert any("16384 tokens) does not fit" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"gpus": 0}, "--gpus is 0"),
        ({"gpu_memory": -1.0}, "--gpu-memory is -1"),
        ({"gpu_memory": float("nan")}, "--gpu-memory is nan"),
        ({"gpu_memory_utilization": 1.5}, "--gpu-memory-utilization is 1.5"),
    ],
)
def test_impossible_machines_are_refused(fields, says):
    with pytest.raises(ConfigError, match=says):
        MemoryPlanConfig(**fields)


def test_a_plan_needs_the_memory_and_a_number_of_gpus_that_splits_the_heads(published):
    with pytest.raises(ConfigError, match="--gpu-memory 80"):
        plan_memory(published, MemoryPlanConfig())
    with pytest.raises(ConfigError, match="divides 32"):
        plan_memory(published, MemoryPlanConfig(gpus=3, gpu_memory=80.0))
