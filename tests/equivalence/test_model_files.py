"""Saving, loading, resizing, tying, compiling: the model is the same function before and after."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, StaticCache

import hidden_decoding
from hidden_decoding import Qwen3ScaleSeqConfig, Qwen3ScaleSeqForCausalLM
from tests.equivalence.shared import STREAMS, assert_greedy, assert_logits, expected_logits, ids_of, model_of, prompt
from tests.equivalence.tolerances import BF16_LOGITS
from tests.support import BruteForce, plain_qwen3, tiny_model

TOKENS = prompt(17)


@torch.no_grad()
def logits_of(model, tokens=TOKENS) -> torch.Tensor:
    """[T, V]."""
    return model(ids_of(tokens)).logits[0]


# ------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("scheme", ["contiguous", "linear"])
@pytest.mark.parametrize("n", STREAMS)
def test_save_and_load(tmp_path, n, scheme):
    model = tiny_model(n, scheme)
    model.save_pretrained(tmp_path)
    loaded, info = Qwen3ScaleSeqForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert torch.equal(logits_of(loaded), logits_of(model))
    assert loaded.config.to_dict() | {"_name_or_path": ""} == model.config.to_dict() | {"_name_or_path": ""}


@pytest.mark.parametrize("n", [1, 4])
def test_published_names(tmp_path, n):
    """Exactly Qwen3's tensors, plus the list of extra tables; config keys as published."""
    tiny_model(n).save_pretrained(tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    extra = {f"model.scale_seq_embed_tokens_list.{k}.weight" for k in range(n - 1)}
    assert names == set(plain_qwen3(tiny_model(n)).state_dict()) | extra
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ScaleSeqForCausalLM"]
    assert config["model_type"] == "qwen3_scale_seq"
    assert config["scale_seq_times"] == n - 1


@pytest.mark.parametrize("n", [2, 8])
def test_sharded_files(tmp_path, n):
    model = tiny_model(n)
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert torch.equal(logits_of(Qwen3ScaleSeqForCausalLM.from_pretrained(tmp_path)), logits_of(model))


@pytest.mark.parametrize("device_map", ["cpu", "auto"])
def test_device_map(tmp_path, device_map):
    tiny_model(4).save_pretrained(tmp_path)
    loaded = Qwen3ScaleSeqForCausalLM.from_pretrained(tmp_path, device_map=device_map)
    assert_logits(logits_of(loaded), expected_logits(4, "contiguous", TOKENS))


@pytest.mark.parametrize("n", STREAMS)
def test_bf16(tmp_path, n):
    """Loads, runs and generates in bf16, near the fp32 function of the same rounded weights."""
    model = tiny_model(n).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    loaded = Qwen3ScaleSeqForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == torch.bfloat16, "the default dtype is the checkpoint's"
    assert {weight.dtype for weight in loaded.parameters()} == {torch.bfloat16}
    logits = logits_of(loaded)
    assert logits.dtype == torch.bfloat16
    rounded = Qwen3ScaleSeqForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert (logits.float() - logits_of(rounded)).abs().max() < BF16_LOGITS
    tokens = loaded.generate(ids_of(TOKENS), max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert tokens.shape == (1, len(TOKENS) + 5)


def test_plain_qwen3_weights_for_several_streams_are_refused(tmp_path):
    plain_qwen3(tiny_model(1)).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"scale_seq_embed_tokens_list\.2\.weight.*hidden-decoding upcycle BASE --streams 4"
    ):
        Qwen3ScaleSeqForCausalLM.from_pretrained(
            tmp_path, config=Qwen3ScaleSeqConfig.from_pretrained(tmp_path, scale_seq_times=3)
        )
    with pytest.raises(ValueError, match="hidden-decoding upcycle BASE --streams 4"):
        Qwen3ScaleSeqForCausalLM.from_pretrained(tmp_path, scale_seq_times=3)


def test_plain_qwen3_is_one_stream(tmp_path):
    stock = plain_qwen3(tiny_model(1))
    stock.save_pretrained(tmp_path)
    loaded = Qwen3ScaleSeqForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.num_streams == 1
    assert torch.equal(logits_of(loaded), logits_of(stock))


@pytest.mark.parametrize("value", [-1, True, 1.5, "3", None])
def test_impossible_numbers_of_streams_are_refused(value):
    with pytest.raises(ValueError, match=f"scale_seq_times is {value!r}, .* whole number from 0"):
        Qwen3ScaleSeqConfig(scale_seq_times=value)


@pytest.mark.parametrize("trust", [None, False, True])
def test_auto_classes_never_run_a_checkpoints_python(tmp_path, trust):
    """After `register()` the Auto classes build ours, though the directory carries files that raise on import."""
    hidden_decoding.register()
    hidden_decoding.register()
    tiny_model(4).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "configuration_qwen3_scale_seq.Qwen3ScaleSeqConfig",
        "AutoModel": "modeling_qwen3_scale_seq.Qwen3ScaleSeqModel",
        "AutoModelForCausalLM": "modeling_qwen3_scale_seq.Qwen3ScaleSeqForCausalLM",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in ("configuration", "modeling"):
        (tmp_path / f"{name}_qwen3_scale_seq.py").write_text("raise RuntimeError('a checkpoint file was executed')")
    assert type(AutoConfig.from_pretrained(tmp_path, trust_remote_code=trust)) is Qwen3ScaleSeqConfig
    model = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=trust)
    assert type(model) is Qwen3ScaleSeqForCausalLM
    assert torch.equal(logits_of(model), logits_of(tiny_model(4)))
    assert type(AutoModel.from_pretrained(tmp_path, trust_remote_code=trust)) is type(model.model)
    assert type(AutoModelForCausalLM.from_config(model.config)) is Qwen3ScaleSeqForCausalLM


def test_the_backbone_alone_loads(tmp_path):
    """As reward models and embedders do: `last_hidden_state` is one row per token."""
    hidden_decoding.register()
    model = tiny_model(4)
    model.save_pretrained(tmp_path)
    backbone = AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        hidden = backbone(ids_of(TOKENS)).last_hidden_state
        assert hidden.shape == (1, len(TOKENS), 64)
        assert_logits(model.lm_head(hidden)[0], logits_of(model))


@pytest.mark.parametrize("n", [1, 4])
def test_pickled_model(n):
    assert torch.equal(logits_of(pickle.loads(pickle.dumps(tiny_model(n)))), logits_of(model_of(n)))


# ---------------------------------------------------------------------------------------------------- tying, resizing


@pytest.mark.parametrize("n", STREAMS)
def test_tied_head(tmp_path, n):
    """The head shares stream 1's table, before and after a round trip; the other tables stay their own."""
    model = tiny_model(n, tie_word_embeddings=True)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    expected = BruteForce(model).logits(list(TOKENS))
    assert_logits(logits_of(model), expected)
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    loaded = Qwen3ScaleSeqForCausalLM.from_pretrained(tmp_path)
    assert loaded.lm_head.weight.data_ptr() == loaded.model.embed_tokens.weight.data_ptr()
    assert_logits(logits_of(loaded), expected)


def test_untied_head_is_its_own():
    model = tiny_model(2)
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("size", "options"), [(519, {}), (500, {}), (513, {"pad_to_multiple_of": 64})])
@pytest.mark.parametrize("n", STREAMS)
def test_resize_reaches_every_table(n, size, options, tied):
    model = tiny_model(n, tie_word_embeddings=tied)
    tokens = tuple(token for token in TOKENS if token < 500)
    before = logits_of(model, tokens)
    returned = model.resize_token_embeddings(size, **options)
    final = 576 if options else size
    tables = [model.model.embed_tokens, *model.model.scale_seq_embed_tokens_list]
    assert returned is model.model.embed_tokens
    assert [table.num_embeddings for table in tables] == [final] * n
    assert model.lm_head.out_features == model.lm_head.weight.shape[0] == model.config.vocab_size == final
    assert (model.lm_head.weight.data_ptr() == tables[0].weight.data_ptr()) is tied
    kept = min(final, 512)
    assert_logits(logits_of(model, tokens)[:, :kept], before[:, :kept])
    if final > 512:  # the new ids work, in every table, by brute force too
        assert_logits(logits_of(model, (*tokens, 512)), BruteForce(model).logits([*tokens, 512]))
        assert all(table.weight[512].abs().max() > 0 for table in tables)


def test_resize_keeps_frozen_tables_frozen():
    model = tiny_model(2)
    model.model.scale_seq_embed_tokens_list.requires_grad_(False)
    model.resize_token_embeddings(520)
    assert not model.model.scale_seq_embed_tokens_list[0].weight.requires_grad
    assert model.model.embed_tokens.weight.requires_grad


# --------------------------------------------------------------------------------------------------------- compiling


@pytest.mark.parametrize("mask", ["ready", "in tokens"])
@torch.no_grad()
def test_static_decode_step_compiles_once_as_a_whole(mask):
    """`fullgraph=True` refuses any break; one graph serves every step. The backend does not matter for either.

    "ready" is what `generate()` does: the mask is made outside. Without any mask transformers' own mask code branches
    on the number of rows in the cache, for Qwen3 with chunks as for us, and does not compile as a whole.
    """
    counter = CompileCounterWithBackend("aot_eager")
    model, most_tokens = model_of(2), 32
    cache = StaticCache(config=model.config, max_cache_len=2 * most_tokens)
    step = torch.compile(model, fullgraph=True, dynamic=False, backend=counter)
    torch._dynamo.reset()
    output = model(ids_of(TOKENS), past_key_values=cache)
    answer, view = [int(output.logits[0, -1].argmax())], output.past_key_values
    for _ in range(5):
        position = torch.tensor([[len(TOKENS) + len(answer) - 1]])
        attend = torch.ones(1, most_tokens, dtype=torch.long)
        if mask == "ready":
            attend = model.create_masks_for_generate(model.config, torch.empty(1, 1, 0), attend, view, position)
        output = step(torch.tensor([[answer[-1]]]), attention_mask=attend, past_key_values=view, position_ids=position)
        answer.append(int(output.logits[0, -1].argmax()))
    assert counter.frame_count == 1
    assert_greedy(answer, 2, "contiguous", TOKENS, least=6)
