"""`config.json`: every published spelling means the same, and what cannot work is refused by name."""

import json

import pytest
import torch
from transformers import Qwen3Config

from hidden_decoding.errors import CheckpointError, ConfigError, HiddenDecodingError
from hidden_decoding.modeling.checkpoint import expected_tensors
from hidden_decoding.modeling.config_file import config_from_dict, load_config, published_config_dict
from tests.modeling.damage import PUBLISHED_8B_N8
from tests.support import tiny_config

SIZES = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
}
N4 = {"model_type": "qwen3_scale_seq", "architectures": ["Qwen3ScaleSeqForCausalLM"], "scale_seq_times": 3, **SIZES}
PLAIN = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], **SIZES}


def read(fields, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(fields))
    return load_config(tmp_path)


def test_plain_qwen3_is_one_stream(tmp_path):
    assert read(PLAIN, tmp_path).num_streams == 1


def test_streams_and_context_follow_scale_seq_times(tmp_path):
    config = read(N4, tmp_path)
    assert (config.num_streams, config.max_position_embeddings, config.max_tokens) == (4, 1024, 256)


def test_a_scale_seq_config_without_the_count_is_one_stream(tmp_path):
    assert read({key: N4[key] for key in N4 if key != "scale_seq_times"}, tmp_path).num_streams == 1


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 4}},
        {"rope_theta": 1000000, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        {"rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 4.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0}, "rope_theta": 1e6},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}, "rope_theta": 1000000},
        # transformers alone would drop the theta of this one: its rope_scaling replaces rope_parameters.
        {"rope_parameters": {"rope_theta": 1e6}, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    ],
)
@pytest.mark.parametrize("base", [PLAIN, N4], ids=["plain", "n4"])
def test_every_rope_spelling_keeps_theta_type_and_factor(base, spelling, tmp_path):
    rope = read({**base, **spelling}, tmp_path).rope_parameters
    assert rope == {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}


@pytest.mark.parametrize(
    "spelling", [{"rope_theta": 1e6, "rope_scaling": None}, {"rope_parameters": {"rope_theta": 1e6}}]
)
def test_theta_survives_without_scaling(spelling, tmp_path):
    config = read({**N4, **spelling}, tmp_path)
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 1e6}


@pytest.mark.parametrize(
    "spelling", [{"dtype": "bfloat16"}, {"torch_dtype": "bfloat16"}, {"torch_dtype": "torch.bfloat16"}]
)
def test_both_dtype_spellings(spelling, tmp_path):
    assert read({**N4, **spelling}, tmp_path).dtype is torch.bfloat16


def test_reading_a_plain_config_keeps_what_transformers_reads(tmp_path):
    fields = {**PLAIN, "rope_theta": 1e6, "eos_token_id": [1, 2], "tie_word_embeddings": True, "rms_norm_eps": 1e-5}
    ours, stock = read(fields, tmp_path).to_dict(), Qwen3Config(**fields).to_dict()
    for key in ("scale_seq_times", "model_type", "architectures"):
        ours.pop(key, None), stock.pop(key, None)
    assert ours == stock


@pytest.mark.parametrize("positions", ["contiguous", "linear"])
def test_the_published_form_reads_back_as_the_same_configuration(positions, tmp_path):
    config = tiny_config(4, positions, dtype="bfloat16")
    written = json.loads(json.dumps(published_config_dict(config)))
    assert written["architectures"] == ["Qwen3ScaleSeqForCausalLM"]
    assert written["auto_map"]["AutoModelForCausalLM"] == "modeling_qwen3_scale_seq.Qwen3ScaleSeqForCausalLM"
    assert (written["model_type"], written["scale_seq_times"], written["dtype"]) == ("qwen3_scale_seq", 3, "bfloat16")
    assert written["rope_theta"] == written["rope_parameters"]["rope_theta"] == config.rope_parameters["rope_theta"]
    again = read(written, tmp_path)
    assert published_config_dict(again) == published_config_dict(config)


def test_the_published_8b_file_loads(tmp_path):
    config = read(PUBLISHED_8B_N8, tmp_path)
    assert (config.num_streams, config.max_tokens, config.dtype) == (8, 16384, torch.bfloat16)
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 1e6}
    assert config.bos_token_id is None


def test_a_file_does_not_choose_how_the_model_runs(tmp_path):
    config = read({**N4, "attn_implementation": "someone/kernel", "_attn_implementation": "someone/kernel"}, tmp_path)
    assert config._attn_implementation is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scale_seq_times": -1}, "scale_seq_times is -1"),
        ({"scale_seq_times": 2.5}, "scale_seq_times is 2.5"),
        ({"scale_seq_times": 3.0}, "scale_seq_times is 3.0"),
        ({"scale_seq_times": True}, "scale_seq_times is true"),
        ({"scale_seq_times": "3"}, 'scale_seq_times is "3"'),
        ({"scale_seq_times": None}, "scale_seq_times is null"),
        ({"scale_seq_times": [3]}, "scale_seq_times is"),
        ({"model_type": "llama"}, "'llama'"),
        ({"model_type": "qwen3_moe"}, "'qwen3_moe'"),
        ({"model_type": None, "architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, "Qwen3ForSequenceClassification"),
        ({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}, "has no extra tables"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"hidden_size": -64}, "hidden_size is -64"),
        ({"hidden_size": "64"}, 'hidden_size is "64"'),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers is 2.0"),
        ({"num_hidden_layers": 10**18, "layer_types": None}, "num_hidden_layers is 10"),
        ({"hidden_act": "gelo"}, "'gelo'"),
        ({"num_hidden_layers": True}, "num_hidden_layers is true"),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3"),
        ({"num_key_value_heads": 0}, "num_key_value_heads is 0"),
        ({"head_dim": 15}, "head_dim is 15"),
        ({"max_position_embeddings": 0}, "max_position_embeddings is 0"),
        ({"rope_scaling": {"rope_type": "spiral"}}, '"spiral"'),
        ({"rope_parameters": {"rope_type": ["linear"], "rope_theta": 1e6}}, "rope_type"),
        ({"rope_parameters": {"type": "mrope", "rope_theta": 1e6}}, '"mrope"'),
        ({"rope_scaling": {"rope_type": "linear"}}, "needs a factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "4"}}, "factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0.5}}, "factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": True}}, "factor"),
        ({"rope_scaling": "linear"}, "one flat JSON object"),
        ({"rope_scaling": {"full_attention": {"rope_type": "default"}}}, "one flat JSON object"),
        ({"rope_scaling": {"rope_type": "linear", "type": "yarn", "factor": 2}}, "given twice"),
        ({"rope_theta": 1e6, "rope_parameters": {"rope_theta": 1e4}}, "given twice"),
        ({"rope_theta": 0}, "rope_theta is 0"),
        ({"rope_theta": float("inf")}, "rope_theta"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "short_factor"),
        ({"dtype": "int8"}, '"int8"'),
        ({"torch_dtype": "bf17"}, '"bf17"'),
        ({"dtype": 16}, "dtype is 16"),
        ({"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}, "sliding-window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding-window"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "linear_attention"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
        ({"per_layer_config": {"0": {"head_dim": 32}}}, "per_layer_config"),
    ],
)
def test_what_cannot_work_is_a_config_error_that_names_file_and_value(changes, says, tmp_path):
    with pytest.raises(ConfigError) as caught:
        read({**N4, **changes}, tmp_path)
    message = str(caught.value)
    assert says in message
    assert str(tmp_path / "config.json") in message
    assert "\n" not in message


def test_sliding_window_of_one_stream_and_an_unused_one_are_fine(tmp_path):
    assert (
        read({**N4, "use_sliding_window": False, "sliding_window": 64}, tmp_path).layer_types == ["full_attention"] * 2
    )
    windowed = {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}
    assert read({**PLAIN, **windowed}, tmp_path).layer_types == ["full_attention", "sliding_attention"]


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '"x"', "\udcff", "[" * 100_000])
def test_a_file_that_is_no_json_object_is_refused(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_config(tmp_path)


def test_a_directory_without_config_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_config(tmp_path)


def outcome(fields) -> str:
    """What reading a parsed file and building its model comes to: "accepted", or our error's message."""
    try:
        expected_tensors(config_from_dict(fields, where="config.json"))
    except HiddenDecodingError as error:
        return str(error)
    return "accepted"


def test_validators_of_other_packages_never_reach_the_user():
    """Whatever single value a key gets, the answer is a model or one of our errors, which names the file."""
    small = {**PUBLISHED_8B_N8, "num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}
    others = ("rms_norm_eps", "attention_bias", "hidden_act", "use_cache", "id2label", "num_streams")
    values = (None, -1, 0, 2.5, "x", [], {}, True, 10**30)
    outcomes = [outcome({**small, key: value}) for key in (*PUBLISHED_8B_N8, *others) for value in values]
    assert all(said == "accepted" or "config.json" in said for said in outcomes)
    assert outcome(small) == "accepted"
    assert outcomes.count("accepted") < len(outcomes) / 2
