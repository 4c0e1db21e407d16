"""Our flags as vLLM's. A flag of ours that vLLM has no counterpart for is refused by name when it was set.

Contract: pure functions of the settings; tokens stay tokens, for vLLM counts them as we do. What the user gives after
the bare `--` comes last, so it wins. Used by `process`.

    >>> vllm_flags(ServeConfig(port=8000), EngineConfig(max_model_len=4096), name="model")
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hidden_decoding.errors import ConfigError
from hidden_decoding.modeling.safetensors_file import parse_size

if TYPE_CHECKING:
    from hidden_decoding.engines.local.engine_config import EngineConfig
    from hidden_decoding.serve.settings import ServeConfig

# What only our own server or engine has.
WITHOUT_COUNTERPART = (
    "max_body_bytes",
    "max_waiting_requests",
    "max_sequences_per_request",
    "request_timeout",
    "keep_alive_seconds",
    "device",
    "kv_cache_fraction",
    "stream_tables",
    "quantization",  # ours quantises while loading; vLLM reads checkpoints that are quantised
    "pack_weights",
)
SAME_NAME = ("dtype", "max_model_len", "block_size", "max_num_seqs", "max_num_batched_tokens", "seed", "chat_template")
REASONING_PARSER = "hidden_decoding"
PLUGIN = "hidden_decoding"  # the name of both entry points: model and page


def vllm_flags(settings: ServeConfig, engine: EngineConfig, *, name: str) -> list[str]:
    """The command line of vLLM's server after the model; raises `ConfigError` for a flag it cannot follow."""
    changed = {**changed_fields(settings), **changed_fields(engine)}
    if lost := [f"--{field.replace('_', '-')}" for field in WITHOUT_COUNTERPART if field in changed]:
        raise ConfigError(f"vLLM has no counterpart of {', '.join(lost)}; leave it out, or use --engine local")
    flags = ["--host", settings.host, "--port", str(settings.port)]
    flags += ["--served-model-name", *dict.fromkeys((*(settings.served_model_name or (name,)), "default"))]
    flags += ["--shutdown-timeout", str(math.ceil(settings.drain_seconds))]
    for field in SAME_NAME:
        if field in changed:
            flags += [f"--{field.replace('_', '-')}", str(changed[field])]
    if engine.kv_cache_memory_bytes is not None:
        flags += ["--kv-cache-memory-bytes", str(parse_size(engine.kv_cache_memory_bytes))]
    if settings.allowed_origins:
        flags += ["--allowed-origins", json.dumps(list(settings.allowed_origins))]
    flags += [] if engine.enable_prefix_caching else ["--no-enable-prefix-caching"]
    flags += ["--enforce-eager"] if engine.enforce_eager else []
    flags += reasoning_flags() if settings.reasoning_parser == "qwen3" else []
    return flags + (["--api-key", *settings.api_key] if settings.api_key else [])


def changed_fields(config: Any) -> dict[str, Any]:
    """The fields that differ from their defaults."""
    values = {field.name: (getattr(config, field.name), field.default) for field in dataclasses.fields(config)}
    return {name: value for name, (value, default) in values.items() if value != default}


def reasoning_flags() -> list[str]:
    """Our reasoning parser; a grammar holds from the first token, since thinking is not required of a model."""
    file = str(Path(__file__).with_name("vllm_reasoning.py"))
    grammar = ["--structured-outputs-config.enable_in_reasoning", "true"]
    return ["--reasoning-parser-plugin", file, "--reasoning-parser", REASONING_PARSER, *grammar]


def allowed_plugins() -> str:
    """`VLLM_PLUGINS`: ours beside those that vLLM would have loaded anyway, since the list shuts out all others."""
    if (given := os.environ.get("VLLM_PLUGINS")) is not None:
        names = [name for name in given.split(",") if name]
    else:
        groups = ("vllm.general_plugins", "vllm.platform_plugins")
        names = [point.name for group in groups for point in metadata.entry_points(group=group)]
    return ",".join(dict.fromkeys((*names, PLUGIN)))
