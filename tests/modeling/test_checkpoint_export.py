"""Export: the published format, bit for bit, whole or not at all."""

import importlib.util
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from hidden_decoding.errors import CheckpointError, ConfigError, DependencyError
from hidden_decoding.modeling import exporting
from hidden_decoding.modeling.checkpoint import load_config, load_model, load_tokenizer, tensor_index
from hidden_decoding.modeling.export_config import ExportConfig
from hidden_decoding.modeling.exporting import export_checkpoint
from hidden_decoding.modeling.remote_code import GENERATED
from hidden_decoding.modeling.safetensors_file import DTYPES
from tests.modeling.damage import copy_of, edit_config, edit_weights, truncate
from tests.support import plain_qwen3, tiny_model

PUBLISHED_NAMES = [
    "lm_head.weight",
    "model.embed_tokens.weight",
    "model.norm.weight",
    "model.scale_seq_embed_tokens_list.0.weight",
    "model.scale_seq_embed_tokens_list.1.weight",
    "model.scale_seq_embed_tokens_list.2.weight",
]


def stored(directory) -> dict:
    return {name: load_file(path)[name] for name, (path, _) in tensor_index(directory).items()}


def assert_same_bits(actual: dict, expected: dict) -> None:
    assert actual.keys() == expected.keys()
    for name, weight in expected.items():
        assert actual[name].dtype == weight.dtype
        assert torch.equal(actual[name], weight), name


def test_export_is_the_published_format(tiny_checkpoint, tmp_path):
    source, out = tiny_checkpoint(4, "linear"), tmp_path / "out"
    export_checkpoint(source, out)
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ScaleSeqForCausalLM"]
    assert (config["model_type"], config["scale_seq_times"], config["dtype"]) == ("qwen3_scale_seq", 3, "float32")
    for target in config["auto_map"].values():
        file, _, name = target.partition(".")
        assert f"class {name}(" in (out / f"{file}.py").read_text()
    assert sorted(name for name in stored(out) if ".layers." not in name) == PUBLISHED_NAMES
    assert_same_bits(stored(out), stored(source))
    assert load_config(out).to_dict() == load_config(source).to_dict()
    assert load_tokenizer(out).get_vocab() == load_tokenizer(source).get_vocab()
    assert (out / "generation_config.json").read_text() == (source / "generation_config.json").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_plain_qwen3_becomes_a_published_checkpoint_of_one_stream(tmp_path):
    plain_qwen3(tiny_model(1)).save_pretrained(tmp_path / "plain")
    export_checkpoint(tmp_path / "plain", tmp_path / "out")
    assert load_config(tmp_path / "out").num_streams == 1
    assert_same_bits(stored(tmp_path / "out"), stored(tmp_path / "plain"))


def test_tied_heads_stay_tied(tmp_path):
    tiny_model(2, tie_word_embeddings=True).save_pretrained(tmp_path / "tied")
    export_checkpoint(tmp_path / "tied", tmp_path / "out")
    model = load_model(tmp_path / "out")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_shards_are_no_larger_than_asked(tiny_checkpoint, tmp_path):
    source, out = tiny_checkpoint(4), tmp_path / "out"
    export_checkpoint(source, out, ExportConfig(max_shard_size="200KB"))
    files = sorted(out.glob("*.safetensors"))
    assert len(files) > 2
    assert all(path.stat().st_size < 210_000 for path in files)
    assert_same_bits(stored(out), stored(source))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_dtype_converts_weights_and_configuration(dtype, tiny_checkpoint, tmp_path):
    source, out = tiny_checkpoint(2), tmp_path / "out"
    made = export_checkpoint(source, out, ExportConfig(dtype=dtype))
    assert_same_bits(stored(out), {name: weight.to(getattr(torch, dtype)) for name, weight in stored(source).items()})
    assert load_config(out).dtype == getattr(torch, dtype)
    assert made.total_bytes * 2 == sum(entry.nbytes for _, entry in tensor_index(source).values())
    assert {DTYPES[entry.dtype][1] for _, entry in tensor_index(out).values()} == {dtype}


def test_values_the_dtype_cannot_hold_are_refused_and_leave_nothing(tiny_checkpoint, tmp_path):
    source = copy_of(tiny_checkpoint(2), tmp_path / "source")
    edit_weights(source, lambda w: w["model.norm.weight"].fill_(1e6))
    with pytest.raises(ConfigError, match=r"model\.norm\.weight holds values too large"):
        export_checkpoint(source, tmp_path / "out", ExportConfig(dtype="float16"))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    export_checkpoint(source, tmp_path / "out", ExportConfig(dtype="bfloat16"))


def test_a_checkpoint_without_a_dtype_is_published_with_the_one_it_is_stored_in(tmp_path):
    tiny_model(2).bfloat16().save_pretrained(tmp_path / "source")
    edit_config(tmp_path / "source", dtype=...)
    export_checkpoint(tmp_path / "source", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_target_that_is_not_empty_is_refused_and_kept(tiny_checkpoint, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        export_checkpoint(tiny_checkpoint(2), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_interrupted_export_leaves_nothing(tiny_checkpoint, tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "copy_companions", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_checkpoint(tiny_checkpoint(2), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_broken_source_is_refused_before_anything_is_written(tiny_checkpoint, tmp_path):
    source = truncate(copy_of(tiny_checkpoint(2), tmp_path / "source"))
    with pytest.raises(CheckpointError, match="truncated"):
        export_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_python_of_the_source_is_not_carried_over(tiny_checkpoint, tmp_path):
    source = copy_of(tiny_checkpoint(2), tmp_path / "source")
    for name in (*GENERATED, "tokenization_trap.py"):
        (source / name).write_text("raise SystemError\n")
    export_checkpoint(source, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.py")) == sorted(GENERATED)
    assert not any("SystemError" in path.read_text() for path in (tmp_path / "out").glob("*.py"))


def adapter(directory, base, **weights):
    """A LoRA adapter of rank 2, scale 4 on one projection of the first layer."""
    from safetensors.torch import save_file

    directory.mkdir()
    described = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": 2,
        "lora_alpha": 8,
        "target_modules": "model.layers.0.self_attn.q_proj",
        "bias": "none",
    }
    (directory / "adapter_config.json").write_text(json.dumps(described))
    save_file(weights, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    return directory


def lora_weights() -> dict:
    generator = torch.Generator().manual_seed(3)
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    return {
        f"{prefix}.lora_A.weight": torch.randn(2, 64, generator=generator),
        f"{prefix}.lora_B.weight": torch.randn(64, 2, generator=generator),
    }


def test_an_adapter_is_merged_into_its_base(tiny_checkpoint, tmp_path):
    if importlib.util.find_spec("peft") is None:
        from tests.conftest import missing

        missing("peft")
    weights = lora_weights()
    source = adapter(tmp_path / "adapter", str(tiny_checkpoint(2)), **weights)
    export_checkpoint(source, tmp_path / "out")
    expected = stored(tiny_checkpoint(2))
    changed = expected["model.layers.0.self_attn.q_proj.weight"]
    a, b = weights.values()
    merged = stored(tmp_path / "out")
    torch.testing.assert_close(merged.pop("model.layers.0.self_attn.q_proj.weight"), changed + 4 * b @ a)
    expected.pop("model.layers.0.self_attn.q_proj.weight")
    assert_same_bits(merged, expected)
    assert load_tokenizer(tmp_path / "out") is not None


def test_an_adapter_without_peft_names_what_to_install(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    source = adapter(tmp_path / "adapter", str(tiny_checkpoint(2)), **lora_weights())
    with pytest.raises(DependencyError, match=r'pip install "hidden-decoding\[train\]"'):
        export_checkpoint(source, tmp_path / "out")


def test_an_adapter_without_a_base_is_refused(tmp_path):
    source = adapter(tmp_path / "adapter", None, **lora_weights())
    with pytest.raises(CheckpointError, match="base_model_name_or_path"):
        export_checkpoint(source, tmp_path / "out")
    shutil.rmtree(source)


@pytest.mark.parametrize("size", ["0GB", "-1", "5 apples", ""])
def test_an_impossible_shard_size_is_refused(size):
    with pytest.raises(ConfigError, match="not a size"):
        ExportConfig(max_shard_size=size)
