"""Strict loading: whatever is wrong with the files is a typed error that names it, before any weight is read."""

import shutil

import pytest
import torch
from transformers import Qwen3ForCausalLM

from hidden_decoding.errors import CheckpointError, ConfigError
from hidden_decoding.modeling.checkpoint import (
    expected_tensors,
    load_config,
    load_model,
    load_tokenizer,
    tensor_index,
    torch_dtype,
    verify_checkpoint,
)
from hidden_decoding.modeling.safetensors_file import read_header
from tests.modeling.damage import (
    PUBLISHED_8B_N8,
    copy_of,
    corrupt_header,
    edit_config,
    edit_weights,
    shard,
    truncate,
    write_index,
)
from tests.support import BruteForce, plain_qwen3, tiny_config, tiny_model

EXTRA = "model.scale_seq_embed_tokens_list"


@pytest.fixture
def n4(tiny_checkpoint, tmp_path):
    """A fresh copy of a checkpoint of four streams, to be damaged."""
    return copy_of(tiny_checkpoint(4), tmp_path / "n4")


def greedy(model, tokens=8):
    prompt = torch.tensor([[5, 17, 300, 42]])
    return model.generate(prompt, max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0)[
        0, 4:
    ].tolist()


def refusal(directory, kind=CheckpointError) -> str:
    """The message with which loading refuses a directory; the weights' own loader must not have been reached."""
    with pytest.raises(kind) as caught:
        load_model(directory)
    message = str(caught.value)
    assert str(directory) in message
    assert "\n" not in message
    return message


# ------------------------------------------------------------------------------------------------------------ loading


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("positions", ["contiguous", "linear"])
def test_a_loaded_checkpoint_decodes_as_the_reference(n, positions, tiny_checkpoint):
    model = load_model(tiny_checkpoint(n, positions))
    expected, gaps = BruteForce(tiny_model(n, positions)).greedy([5, 17, 300, 42], 8)
    assert min(gaps) > 1e-3
    assert greedy(model) == expected
    assert not model.training


def test_sharded_weights_are_the_single_file(n4, tiny_checkpoint):
    shard(n4)
    assert greedy(load_model(n4)) == greedy(load_model(tiny_checkpoint(4)))


def test_a_plain_qwen3_directory_is_one_stream(tmp_path):
    reference = plain_qwen3(tiny_model(1))
    reference.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert model.config.num_streams == 1
    ids = torch.arange(20)[None]
    assert torch.equal(model(ids).logits, reference(ids).logits)
    assert greedy(model) == greedy(Qwen3ForCausalLM.from_pretrained(tmp_path))


def test_tied_heads_load_with_and_without_a_stored_head(tmp_path):
    model = tiny_model(2, tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in read_header(tmp_path / "model.safetensors")
    without = load_model(tmp_path)
    edit_weights(tmp_path, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))
    stored = load_model(tmp_path)
    for loaded in (without, stored):
        assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
        assert greedy(loaded) == greedy(model)


def test_dtype_is_the_checkpoints_unless_asked_otherwise(tmp_path):
    tiny_model(2).bfloat16().save_pretrained(tmp_path)
    assert load_model(tmp_path).dtype == torch.bfloat16
    assert load_model(tmp_path, dtype="float32").dtype == torch.float32
    edit_config(tmp_path, dtype=...)
    assert load_config(tmp_path).dtype is None
    assert load_model(tmp_path).dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="bf17"):
        load_model(tmp_path, dtype="bf17")


def test_names_of_dtypes():
    config = tiny_config(2, dtype=None)
    assert torch_dtype("half", config) is torch.float16
    assert torch_dtype("auto", config) is torch.float32
    assert torch_dtype(torch.float64, config) is torch.float64


def test_the_attention_backend_is_the_callers(tiny_checkpoint):
    assert load_model(tiny_checkpoint(2), attn_implementation="eager").config._attn_implementation == "eager"


def test_python_beside_the_weights_is_never_run(n4):
    ran = n4 / "ran"
    trap = f"open({str(ran)!r}, 'w').close()\nraise SystemError('the checkpoint ran its own Python')\n"
    for name in ("configuration_qwen3_scale_seq", "modeling_qwen3_scale_seq", "tokenization_trap"):
        (n4 / f"{name}.py").write_text(trap)
    edit_config(n4, auto_map=PUBLISHED_8B_N8["auto_map"])
    assert load_model(n4).config.num_streams == 4
    assert load_tokenizer(n4) is not None
    assert not ran.exists()


# -------------------------------------------------------------------------------------------------------- what is wrong


def test_expected_tensors_are_the_models_own():
    model = tiny_model(4)
    assert expected_tensors(model.config) == {name: tuple(w.shape) for name, w in model.state_dict().items()}


def test_missing_tensors_are_named_with_what_n_implies(n4):
    edit_weights(n4, lambda w: [w.pop("model.norm.weight"), w.pop(f"{EXTRA}.1.weight")])
    message = refusal(n4)
    assert "missing 2" in message
    assert "model.norm.weight" in message
    assert f"{EXTRA}.1.weight" in message
    assert "n = 4 (scale_seq_times 3" in message
    assert "hidden-decoding inspect" in message


def test_many_missing_tensors_are_counted(n4):
    edit_weights(n4, lambda w: [w.pop(name) for name in list(w) if ".layers.1." in name])
    assert "missing 11: " in (message := refusal(n4))
    assert "and 7 more" in message


def test_extra_tensors_are_named(n4):
    edit_weights(n4, lambda w: w.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}))
    assert "unexpected 1: model.layers.0.self_attn.rotary_emb.inv_freq" in refusal(n4)


def test_wrong_shapes_are_named_with_both(n4):
    edit_weights(n4, lambda w: w.update({f"{EXTRA}.0.weight": torch.ones(511, 64)}))
    assert f"wrong shape 1: {EXTRA}.0.weight is [511, 64], not [512, 64]" in refusal(n4)


def test_a_missing_head_is_missing(n4):
    edit_weights(n4, lambda w: w.pop("lm_head.weight"))
    assert "missing 1: lm_head.weight" in refusal(n4)


def test_plain_weights_under_more_streams_point_to_upcycle(tmp_path):
    plain_qwen3(tiny_model(1)).save_pretrained(tmp_path)
    edit_config(tmp_path, model_type="qwen3_scale_seq", architectures=["Qwen3ScaleSeqForCausalLM"], scale_seq_times=3)
    message = refusal(tmp_path)
    assert "hidden-decoding upcycle BASE --streams 4" in message
    assert "plain Qwen3" in message


@pytest.mark.parametrize("said", [0, 1, 7])
def test_tables_of_another_n_are_named_with_the_n_they_make(n4, said):
    edit_config(n4, scale_seq_times=said)
    message = refusal(n4)
    assert f"n = {said + 1} (scale_seq_times {said}" in message
    assert "make n = 4" in message
    assert "scale_seq_times 3 into config.json" in message


def test_quantised_weights_are_refused(n4):
    edit_config(n4, quantization_config={"quant_method": "fp8"})
    assert "quantization_config" in refusal(n4)
    edit_config(n4, quantization_config=...)
    edit_weights(n4, lambda w: w.update({"model.norm.weight": torch.ones(64, dtype=torch.int8)}))
    assert "model.norm.weight (I8)" in refusal(n4)


def test_an_adapter_directory_is_refused_with_the_way_to_merge(n4):
    (n4 / "adapter_config.json").write_text("{}")
    assert "hidden-decoding export" in refusal(n4)


# -------------------------------------------------------------------------------------------------------- broken files


@pytest.mark.parametrize("missing_bytes", [1, 100, 10_000])
def test_a_truncated_file_is_refused(n4, missing_bytes):
    assert "truncated" in refusal(truncate(n4, missing_bytes))


def test_a_corrupt_header_is_refused(n4):
    assert "model.safetensors" in refusal(corrupt_header(n4))


def test_a_directory_without_weights_says_what_it_holds(n4):
    (n4 / "model.safetensors").rename(n4 / "pytorch_model.bin")
    assert "pytorch_model.bin" in refusal(n4)
    (n4 / "pytorch_model.bin").unlink()
    assert "holds no weights" in refusal(n4)


def test_a_missing_shard_is_named(n4):
    shard(n4)
    (n4 / "model-00002-of-00003.safetensors").unlink()
    message = refusal(n4)
    assert "model-00002-of-00003.safetensors" in message
    assert "1 of them" in message


def test_a_shard_without_what_the_index_promises(n4):
    weight_map = shard(n4)["weight_map"]
    write_index(n4, {**weight_map, "model.never_stored.weight": "model-00001-of-00003.safetensors"})
    assert "model.never_stored.weight" in refusal(n4)


def test_a_tensor_in_another_shard_than_the_index_says(n4):
    weight_map = shard(n4)["weight_map"]
    elsewhere = next(file for file in weight_map.values() if file != weight_map["model.norm.weight"])
    write_index(n4, {**weight_map, "model.norm.weight": elsewhere})
    assert "model.norm.weight" in refusal(n4)


def test_a_tensor_the_index_forgot(n4):
    weight_map = shard(n4)["weight_map"]
    write_index(n4, {name: file for name, file in weight_map.items() if name != "model.norm.weight"})
    assert "does not name: model.norm.weight" in refusal(n4)


def test_a_tensor_stored_in_two_shards(n4):
    weight_map = shard(n4)["weight_map"]
    shutil.copy(n4 / weight_map["model.norm.weight"], n4 / "model-00009-of-00003.safetensors")
    write_index(n4, {**weight_map, "model.again": "model-00009-of-00003.safetensors"})
    assert "stored twice" in refusal(n4)


@pytest.mark.parametrize("file", ["../outside.safetensors", "/etc/passwd", "model.bin", "sub/model.safetensors"])
def test_an_index_may_only_name_weights_beside_it(n4, file):
    weight_map = shard(n4)["weight_map"]
    write_index(n4, {**weight_map, "model.norm.weight": file})
    assert repr(file) in refusal(n4)


@pytest.mark.parametrize("weight_map", [None, [], {"model.norm.weight": 3}])
def test_an_index_that_maps_nothing_to_files(n4, weight_map):
    shard(n4)
    write_index(n4, weight_map)
    assert "weight_map" in refusal(n4)


def test_a_truncated_shard_is_named(n4):
    shard(n4)
    path = n4 / "model-00003-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    assert path.name in refusal(n4)


def test_the_undamaged_copy_is_accepted(n4):
    """The negative control of every refusal above."""
    found = verify_checkpoint(n4, load_config(n4))
    assert set(found) == set(expected_tensors(load_config(n4)))
    shard(n4)
    assert set(tensor_index(n4)) == set(found)


# ----------------------------------------------------------------------------------------------------------- tokenizer


def test_the_tokenizer_loads_with_its_chat_template(tiny_checkpoint):
    tokenizer = load_tokenizer(tiny_checkpoint(2))
    assert tokenizer.decode(tokenizer("def main():")["input_ids"]) == "def main():"
    assert "<|im_start|>" in tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)


def test_a_directory_without_a_tokenizer_has_none(tmp_path):
    tiny_model(2).save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path) is None


def test_a_broken_tokenizer_is_a_checkpoint_error(n4):
    (n4 / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer"):
        load_tokenizer(n4)


def test_the_real_qwen3_tokenizer_loads_beside_an_n4_config(n4, data_dir):
    for file in (data_dir / "tokenizer" / "qwen3").iterdir():
        shutil.copy(file, n4)
    tokenizer = load_tokenizer(n4)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == 151645
    assert tokenizer("Hello, world")["input_ids"] == [9707, 11, 1879]
