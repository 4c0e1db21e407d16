"""Ways to damage a checkpoint directory, and the published 8B shape; shared by library and command-line tests."""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

PUBLISHED_8B_N8 = {
    "architectures": ["Qwen3ScaleSeqForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_qwen3_scale_seq.Qwen3ScaleSeqConfig",
        "AutoModelForCausalLM": "modeling_qwen3_scale_seq.Qwen3ScaleSeqForCausalLM",
    },
    "model_type": "qwen3_scale_seq",
    "scale_seq_times": 7,
    "dtype": "bfloat16",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "layer_types": ["full_attention"] * 36,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
    "eos_token_id": 151643,
    "max_position_embeddings": 131072,
    "rope_theta": 1000000,
    "rms_norm_eps": 1e-06,
}


def copy_of(checkpoint: Path, target: Path) -> Path:
    shutil.copytree(checkpoint, target)
    return target


def edit_config(directory: Path, **changes) -> Path:
    """Sets keys of config.json; a value of `...` removes the key."""
    path = directory / "config.json"
    fields = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not ...}))
    return directory


def edit_weights(directory: Path, change) -> Path:
    """Lets `change` edit the dict of all tensors of a single-file checkpoint."""
    path = directory / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})
    return directory


def shard(directory: Path, count: int = 3) -> dict:
    """Splits a single-file checkpoint into shards with an index; returns the index."""
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(weights)
    weight_map = {name: f"model-{i % count + 1:05d}-of-{count:05d}.safetensors" for i, name in enumerate(names)}
    for file_name in set(weight_map.values()):
        save_file({name: weights[name] for name in names if weight_map[name] == file_name}, directory / file_name)
    return write_index(directory, weight_map)


def write_index(directory: Path, weight_map: dict) -> dict:
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return index


def truncate(directory: Path, missing_bytes: int = 100) -> Path:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-missing_bytes])
    return directory


def corrupt_header(directory: Path) -> Path:
    path = directory / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[8:12] = b"\x00\xff\x00\xff"
    path.write_bytes(data)
    return directory
