"""Limits in tokens, refusals at start, strict weights: what the plugin says before and while a model is loaded."""

from __future__ import annotations

import json
import logging

import pytest
from safetensors.torch import load_file, save_file
from vllm.engine.arg_utils import EngineArgs
from vllm.usage.usage_lib import UsageContext

from hidden_decoding.engines.vllm.layers import rope_rows
from hidden_decoding.engines.vllm.limits import undo_factor
from hidden_decoding.engines.vllm.plugin import register
from hidden_decoding.errors import CheckpointError
from tests.support import save_tiny_checkpoint
from tests.vllm.engine import SHAPE, started

SCHEMES = ["contiguous", "linear"]


def config_for(directory, usage=UsageContext.LLM_CLASS, **options):
    """vLLM's complete configuration; loads no weights."""
    return EngineArgs(model=str(directory), dtype="float32", enforce_eager=True, **options).create_engine_config(usage)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_context_is_positions_over_n_in_both_schemes(checkpoint, n, scheme):
    config = config_for(checkpoint(n, scheme))
    assert config.model_config.hf_text_config.max_position_embeddings == 256 * n
    assert config.model_config.max_model_len == 256


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_longer_context_is_refused_in_both_units(checkpoint, scheme):
    with pytest.raises(ValueError, match=r"257.*2048 positions at n = 8: in tokens =256"):
        config_for(checkpoint(8, scheme), max_model_len=257)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_longer_context_that_the_user_insists_on_has_positions(checkpoint, scheme, monkeypatch):
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1")
    config = config_for(checkpoint(4, scheme), max_model_len=300)
    factor = 4 if scheme == "linear" else 1
    assert rope_rows(config) * factor >= 1200


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rope_table_has_a_row_per_position_and_no_more(checkpoint, scheme):
    with started(checkpoint(4, scheme), 4) as llm:
        [rows] = llm.apply_model(lambda model: model.model.layers[0].self_attn.rotary_emb.cos_sin_cache.shape[0])
    assert rows == 1024


@pytest.mark.parametrize("factor", [1.0, 3.0, 7.0, 1.1, 8.0, 2.7])
def test_a_factor_that_vllm_multiplies_is_undone(factor):
    assert all(int(undo_factor(tokens, factor) * factor) == tokens for tokens in range(1, 3000))


def test_default_batch_is_divided_by_n_and_a_chosen_one_is_kept(checkpoint):
    def batch(n, **options):
        usage = UsageContext.OPENAI_API_SERVER
        return config_for(checkpoint(n), usage, max_num_seqs=32, **options).scheduler_config.max_num_batched_tokens

    assert batch(1) == 2048
    assert batch(4) == 512
    assert batch(8) == 256
    assert batch(8, max_num_batched_tokens=1000) == 1000


def test_the_log_gives_both_units(checkpoint, caplog):
    with caplog.at_level(logging.INFO, logger="vllm.plugins.hidden_decoding"):
        logging.getLogger("vllm").propagate = True
        config_for(checkpoint(8), max_num_batched_tokens=100, max_num_seqs=16)
    assert "the context is 256 tokens = 2048 positions" in caplog.text
    assert "at most 100 tokens = 800 positions in one step" in caplog.text


REFUSED = {
    "enable_lora": ({"enable_lora": True}, "picks adapters by token"),
    "pipeline": ({"pipeline_parallel_size": 2}, "--pipeline-parallel-size"),
    "prompt embeddings": ({"enable_prompt_embeds": True}, "one embedding per token"),
    "dbo": ({"enable_dbo": True}, "--enable-dbo"),
    "kv connector": (
        {"kv_transfer_config": {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}},
        "KV connectors",
    ),
    "draft model": (
        {"speculative_config": {"method": "draft_model", "model": "SELF", "num_speculative_tokens": 2}},
        "speculation by 'draft_model' is not supported",
    ),
    "decode context parallel": (
        {"tensor_parallel_size": 4, "decode_context_parallel_size": 2},
        "--decode-context-parallel-size",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_by_name(checkpoint, name):
    options, said = json.loads(json.dumps(REFUSED[name]).replace("SELF", str(checkpoint(2))))
    with pytest.raises(Exception, match=said):
        config_for(checkpoint(2), **options)


def test_sliding_window_is_refused(tmp_path):
    window = {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0}
    save_tiny_checkpoint(tmp_path, 2, **SHAPE)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, **window, "layer_types": ["sliding_attention"] * 3}))
    with pytest.raises(ValueError, match="sliding-window attention is in use with n = 2 streams"):
        config_for(tmp_path)


def test_registering_twice_changes_nothing(checkpoint):
    register()
    register()
    assert config_for(checkpoint(2)).model_config.architecture == "Qwen3ScaleSeqForCausalLM"


@pytest.fixture
def damaged(tmp_path):
    """A checkpoint with n = 3 whose weights a function changes."""

    def make(change):
        save_tiny_checkpoint(tmp_path, 3, **SHAPE)
        weights = load_file(tmp_path / "model.safetensors")
        change(weights)
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        return tmp_path

    return make


TABLE = "model.scale_seq_embed_tokens_list.{}.weight"
DAMAGE = {
    "a table is missing": (lambda w: w.pop(TABLE.format(1)), rf"n = 3 .*need {TABLE.format(1)}"),
    "plain Qwen3": (lambda w: [w.pop(TABLE.format(k)) for k in (0, 1)], rf"need {TABLE.format(0)}"),
    "a table too many": (lambda w: w.update({TABLE.format(2): w["lm_head.weight"].clone()}), TABLE.format(2)),
    "k_proj is missing": (lambda w: w.pop("model.layers.1.self_attn.k_proj.weight"), r"layers\.1\.self_attn\.k_proj"),
    "an unknown tensor": (lambda w: w.update({"model.extra.weight": w["lm_head.weight"].clone()}), r"model\.extra"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_weights_must_be_those_of_the_configuration(damaged, name):
    change, said = DAMAGE[name]
    directory = damaged(change)
    with pytest.raises(CheckpointError, match=said), started(directory, 4):
        pass
