"""Reads `config.json` strictly, in every spelling published checkpoints use, and writes the published one.

Contract: `load_config` gives a `Qwen3ScaleSeqConfig` that means exactly what the file says, or raises `ConfigError`
naming file, key, value and remedy; plain `qwen3` is n = 1. Between `hub` (which finds the directory) and `checkpoint`
(which holds the weights against it). No weights are touched, no checkpoint Python is run.

    >>> load_config(Path("path/to/checkpoint")).num_streams
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from hidden_decoding.errors import CheckpointError, ConfigError
from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig

CONFIG_FILE = "config.json"
AUTO_MAP = {
    "AutoConfig": "configuration_qwen3_scale_seq.Qwen3ScaleSeqConfig",
    "AutoModel": "modeling_qwen3_scale_seq.Qwen3ScaleSeqModel",
    "AutoModelForCausalLM": "modeling_qwen3_scale_seq.Qwen3ScaleSeqForCausalLM",
}
# model_type -> architectures that go with it.
KNOWN_MODELS = {
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Model"),
    "qwen3_scale_seq": ("Qwen3ScaleSeqForCausalLM", "Qwen3ScaleSeqModel"),
}
REQUIRED_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
OPTIONAL_SIZES = ("num_key_value_heads", "head_dim", "max_position_embeddings")
# Far above any real model: a damaged file must not make us build lists of 10^18 layers.
MOST_LAYERS = 10_000
MOST_OF_A_SIZE = 2**31 - 1
ROPE_TYPES = ("default", *ROPE_INIT_FUNCTIONS)
# How to run a model is the caller's choice, not a file's: some of these can name code to fetch from a hub.
RUN_TIME_KEYS = ("attn_implementation", "experts_implementation", "transformers_weights", "fusion_config")
# Attributes of every transformers configuration that say nothing about a decoder; left out of published files.
NOISE_KEYS = {
    "_name_or_path",
    "chunk_size_feed_forward",
    "id2label",
    "is_encoder_decoder",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "torch_dtype",
}


def load_config(directory: str | Path) -> Qwen3ScaleSeqConfig:
    """The configuration of a checkpoint directory (or of a `config.json` given by its own path)."""
    path = Path(directory)
    path = path if path.is_file() else path / CONFIG_FILE
    return config_from_dict(read_json(path), where=str(path))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint; raises `CheckpointError` when there is none."""
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} does not exist; a checkpoint directory holds config.json and *.safetensors: ls {path.parent}"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); check: ls -l {path}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); fetch the file again or repair it") from error
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{path} holds a JSON {type(parsed).__name__}, not an object; fetch the file again")
    return parsed


def config_from_dict(raw: dict[str, Any], *, where: str) -> Qwen3ScaleSeqConfig:
    """The configuration that a parsed `config.json` means; `where` names the file in errors."""
    model_type = _model_type(raw, where)
    dropped = ("model_type", "architectures", "auto_map", "rope_theta", "rope_scaling", "torch_dtype", *RUN_TIME_KEYS)
    fields = {key: value for key, value in raw.items() if key not in dropped and not key.startswith("_")}
    fields["scale_seq_times"] = _scale_seq_times(raw, model_type, where)
    _check_sizes(fields, where)
    if fields.get("per_layer_config") is not None:
        raise ConfigError(f"{where}: per_layer_config makes layers differ, which Qwen3 does not know; remove it")
    fields["rope_parameters"] = _rope_parameters(raw, where)
    fields["dtype"] = _dtype_name(raw, where)
    try:
        config = Qwen3ScaleSeqConfig(**fields, architectures=["Qwen3ScaleSeqForCausalLM"])
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        # transformers and huggingface_hub validate with errors of these families, over several lines.
        reason = " ".join(str(error).split())
        raise ConfigError(f"{where}: transformers refuses this configuration: {reason}; correct the file") from error
    _check_layers(config, where)
    return config


def _model_type(raw: dict[str, Any], where: str) -> str:
    model_type, architectures = raw.get("model_type"), raw.get("architectures") or []
    if not isinstance(architectures, list):
        architectures = [architectures]
    if model_type is None:
        model_type = next(
            (known for known, names in KNOWN_MODELS.items() if any(n in architectures for n in names)), None
        )
    if model_type not in list(KNOWN_MODELS):  # a list: the value may be of a kind that no dictionary can look up
        raise ConfigError(
            f"{where}: model_type is {model_type!r} (architectures {architectures}), but only "
            f"{' and '.join(KNOWN_MODELS)} can be read; give a Qwen3 or a hidden-decoding checkpoint"
        )
    unknown = [name for name in architectures if name not in KNOWN_MODELS[model_type]]
    if unknown:
        raise ConfigError(
            f"{where}: architectures names {', '.join(map(str, unknown))}, but model_type {model_type!r} goes with "
            f"{KNOWN_MODELS[model_type][0]}; give a causal language model of that type"
        )
    return str(model_type)


def _scale_seq_times(raw: dict[str, Any], model_type: str, where: str) -> int:
    value = raw.get("scale_seq_times", 0)
    if type(value) is not int or not 0 <= value <= MOST_LAYERS:
        raise ConfigError(
            f"{where}: scale_seq_times is {json.dumps(value)}, but it counts the extra embedding tables (n - 1) and "
            f"must be a whole number from 0 to {MOST_LAYERS}; correct the file"
        )
    if value and model_type == "qwen3":
        raise ConfigError(
            f"{where}: scale_seq_times is {value}, but model_type 'qwen3' has no extra tables; write model_type "
            "'qwen3_scale_seq' if the weights hold them, or remove scale_seq_times"
        )
    return value


def _check_sizes(fields: dict[str, Any], where: str) -> None:
    for key in REQUIRED_SIZES:
        if fields.get(key) is None:
            raise ConfigError(f"{where}: {key} is missing; fetch the complete config.json of the checkpoint")
    for key in (*REQUIRED_SIZES, *OPTIONAL_SIZES):
        value = fields.get(key)
        most = MOST_LAYERS if key == "num_hidden_layers" else MOST_OF_A_SIZE
        if value is not None and (type(value) is not int or not 1 <= value <= most):
            raise ConfigError(
                f"{where}: {key} is {json.dumps(value)}, but must be a whole number from 1 to {most}; correct the file"
            )
    heads, kv_heads = fields["num_attention_heads"], fields.get("num_key_value_heads") or fields["num_attention_heads"]
    if heads % kv_heads:
        raise ConfigError(
            f"{where}: num_attention_heads is {heads} and num_key_value_heads {kv_heads}, but every key/value head "
            "must serve the same whole number of query heads; correct the file"
        )
    if (head_dim := fields.get("head_dim")) is not None and head_dim % 2:
        raise ConfigError(f"{where}: head_dim is {head_dim}, but rotary positions turn pairs: it must be even")


def _rope_parameters(raw: dict[str, Any], where: str) -> dict[str, Any]:
    """One dictionary with `rope_type` and `rope_theta` from whichever spelling the file has.

    Newer writers keep all of it in `rope_parameters`, older ones `rope_theta` beside a `rope_scaling` whose type may be
    called `type`. Two spellings that disagree are refused: reading one of them would be a guess.
    """
    merged: dict[str, Any] = {}
    sources = [raw.get("rope_parameters"), raw.get("rope_scaling"), {"rope_theta": raw.get("rope_theta")}]
    for source in sources:
        if source is None:
            continue
        if not isinstance(source, dict) or any(isinstance(value, dict) for value in source.values()):
            raise ConfigError(f"{where}: rope parameters are {json.dumps(source)}, but must be one flat JSON object")
        for key, value in source.items():
            name = "rope_type" if key == "type" else key
            if value is None:
                continue
            if merged.setdefault(name, value) != value:
                raise ConfigError(
                    f"{where}: {name} is given twice, as {json.dumps(merged[name])} and {json.dumps(value)} "
                    "(rope_parameters, rope_scaling and rope_theta must agree); keep the right one"
                )
    merged.setdefault("rope_type", "default")
    theta = merged.setdefault("rope_theta", Qwen3ScaleSeqConfig.default_theta)
    if merged["rope_type"] not in ROPE_TYPES:
        raise ConfigError(
            f"{where}: rope_type is {json.dumps(merged['rope_type'])}; known are {', '.join(ROPE_TYPES)}; correct it"
        )
    merged["rope_theta"] = _positive(theta, "rope_theta", where)
    if merged["rope_type"] in ("linear", "dynamic", "yarn", "llama3"):
        if "factor" not in merged:
            raise ConfigError(f"{where}: rope_type {merged['rope_type']!r} needs a factor, and there is none; add it")
        merged["factor"] = _positive(merged["factor"], "factor of the rope parameters", where, least=1.0)
    return merged


def _positive(value: Any, name: str, where: str, least: float = 0.0) -> float:
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not math.isfinite(number) or number <= 0 or number < least:
        wanted = f"a number from {least:g}" if least else "a number above 0"
        raise ConfigError(f"{where}: {name} is {json.dumps(value)}, but must be {wanted}; correct the file")
    return number


def _dtype_name(raw: dict[str, Any], where: str) -> str | None:
    """`dtype` or `torch_dtype`, without the prefix `torch.` that some writers add; None when neither is there."""
    name = raw.get("dtype")
    if name is None:
        name = raw.get("torch_dtype")
    if name is None or name == "auto":
        return None
    known = isinstance(name, str) and getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(known, torch.dtype) or not known.is_floating_point:
        raise ConfigError(f"{where}: dtype is {json.dumps(name)}; known are bfloat16, float16 and float32; correct it")
    return str(name).removeprefix("torch.")


def _check_layers(config: Qwen3ScaleSeqConfig, where: str) -> None:
    if config.hidden_act not in ACT2FN:
        raise ConfigError(f"{where}: hidden_act is {config.hidden_act!r}, which transformers does not know; correct it")
    kinds = set(config.layer_types or [])
    if unknown := kinds - {"full_attention", "sliding_attention"}:
        raise ConfigError(f"{where}: layer_types holds {', '.join(sorted(unknown))}, which Qwen3 does not have")
    if "sliding_attention" in kinds and config.num_streams > 1:
        raise ConfigError(
            f"{where}: sliding-window attention is in use with n = {config.num_streams} streams, and nobody has tested "
            "whether its window should count tokens or positions; set use_sliding_window to false"
        )


def published_config_dict(config: Qwen3ScaleSeqConfig) -> dict[str, Any]:
    """What `config.json` beside published weights holds: every field spelled out, and where the Python for
    `trust_remote_code` is. `rope_theta` also stands at the top level, where older readers look for it.
    """
    fields = {key: value for key, value in config.to_dict().items() if key not in NOISE_KEYS and value is not None}
    rope = dict(config.rope_parameters or {})
    fields.update(
        architectures=["Qwen3ScaleSeqForCausalLM"],
        auto_map=dict(AUTO_MAP),
        model_type=config.model_type,
        scale_seq_times=config.scale_seq_times,
        rope_parameters=rope,
        rope_theta=rope.get("rope_theta"),
        transformers_version=transformers.__version__,
    )
    if config.dtype is not None:
        fields["dtype"] = str(config.dtype).removeprefix("torch.")
    return dict(sorted(fields.items()))
