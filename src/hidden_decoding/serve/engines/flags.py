"""Our flags as vLLM's and SGLang's. A flag of ours that the engine has no counterpart for is refused when it was set.

Contract: pure functions of the settings; tokens stay tokens, for both engines count them as we do. What the user gives
after the bare `--` comes last, so it wins. Used by `vllm_server` and `sglang_server`.

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
# SGLang's pool is sized by slots or a share of memory, its pages are one token, and it answers every web origin.
SGLANG_WITHOUT_COUNTERPART = (
    *(name for name in WITHOUT_COUNTERPART if name != "device"),
    "kv_cache_memory_bytes",
    "block_size",
    "allowed_origins",
    "drain_seconds",
)
SGLANG_NAMES = {
    "dtype": "--dtype",
    "device": "--device",
    "max_model_len": "--context-length",
    "max_num_seqs": "--max-running-requests",
    "max_num_batched_tokens": "--chunked-prefill-size",
    "seed": "--random-seed",
    "chat_template": "--chat-template",
}
REASONING_PARSER = "hidden_decoding"
PLUGIN = "hidden_decoding"  # the name of both entry points: model and page


def vllm_flags(settings: ServeConfig, engine: EngineConfig, *, name: str) -> list[str]:
    """The command line of vLLM's server after the model; raises `ConfigError` for a flag it cannot follow."""
    changed = changed_or_refused("vLLM", settings, engine, WITHOUT_COUNTERPART)
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
    # One key goes through the environment, where no list of processes shows it; vLLM reads several from flags alone.
    return flags + (["--api-key", *settings.api_key] if len(settings.api_key) > 1 else [])


def sglang_flags(settings: ServeConfig, engine: EngineConfig, *, name: str) -> list[str]:
    """The command line of SGLang's server after the model; raises `ConfigError` for a flag it cannot follow."""
    changed = changed_or_refused("SGLang", settings, engine, SGLANG_WITHOUT_COUNTERPART)
    for field, value in (("api_key", settings.api_key), ("served_model_name", settings.served_model_name)):
        if len(value) > 1:
            raise ConfigError(f"SGLang takes one --{field.replace('_', '-')}, not {len(value)}; give the first alone")
    flags = ["--host", settings.host, "--port", str(settings.port)]
    flags += ["--served-model-name", (settings.served_model_name or (name,))[0]]
    for field, flag in SGLANG_NAMES.items():
        if field in changed:
            flags += [flag, str(changed[field])]
    flags += [] if engine.enable_prefix_caching else ["--disable-radix-cache"]
    flags += ["--disable-cuda-graph"] if engine.enforce_eager else []
    return flags + (["--api-key", *settings.api_key] if settings.api_key else [])


def changed_or_refused(
    engine_name: str, settings: ServeConfig, engine: EngineConfig, without_counterpart: tuple[str, ...]
) -> dict[str, Any]:
    """All fields that were set; raises `ConfigError` when the engine cannot follow one of them."""
    changed = {**changed_fields(settings), **changed_fields(engine)}
    if lost := [f"--{field.replace('_', '-')}" for field in without_counterpart if field in changed]:
        raise ConfigError(f"{engine_name} has no counterpart of {', '.join(lost)}; leave it out, or use --engine local")
    return changed


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
