"""What an engine needs before its first request: model, tokenizer, end tokens, sampling defaults, room for KV.

Contract: reads a checkpoint directory once; every refusal is a typed error raised before or right after loading.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hidden_decoding.engines.local.kv_pool import bytes_per_token
from hidden_decoding.errors import CapacityError, ConfigError
from hidden_decoding.modeling.checkpoint import expected_tensors
from hidden_decoding.modeling.inspection import count_parameters
from hidden_decoding.modeling.safetensors_file import parse_size
from hidden_decoding.streams import tokens_to_positions

if TYPE_CHECKING:
    from hidden_decoding.engines.local.engine_config import EngineConfig
    from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig

CHAT_END = "<|im_end|>"
SAMPLING_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def pick_device(name: str) -> torch.device:
    """`auto` takes CUDA when there is one, else the CPU. Raises `ConfigError` for a device this machine lacks."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device("cuda" if present["cuda"] else "cpu")
    if not present.get(name, True):
        raise ConfigError(
            f"--device {name} is not there: PyTorch {torch.__version__} finds no such device on this machine; "
            "use --device auto, and see hidden-decoding doctor"
        )
    return torch.device(name)


def read_generation_config(directory: Path | None) -> dict[str, Any]:
    """`generation_config.json` as a dict; empty when there is none. Raises `ConfigError` when it cannot be read."""
    path = None if directory is None else directory / "generation_config.json"
    if path is None or not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path.name} is not a JSON object ({error}); mend it or delete it") from error


def sampling_defaults(generation_config: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint's own sampling defaults; `do_sample: false` means greedy."""
    if generation_config.get("do_sample") is False:
        return {"temperature": 0.0}
    return {key: generation_config[key] for key in SAMPLING_DEFAULTS if generation_config.get(key) is not None}


def refuse_stream_attention(config: Qwen3ScaleSeqConfig) -> None:
    """The engine's own attention sees all earlier positions in every layer."""
    if config.is_stream_factorised:
        raise ConfigError(
            "stream_attention in config.json gives layers stream-factorised attention, which the local engine does not "
            "compute; run this checkpoint with transformers: Qwen3ScaleSeqForCausalLM.from_pretrained(...).generate"
        )


def refuse_early(model_config: Qwen3ScaleSeqConfig, config: EngineConfig) -> None:
    """Everything that `config.json` and the settings alone rule out; needs no weights."""
    refuse_stream_attention(model_config)
    refuse_long_context(model_config, config.max_model_len)


def refuse_long_context(model_config: Qwen3ScaleSeqConfig, asked: int | None) -> None:
    """A context beyond the checkpoint's is a `ConfigError`; `asked` counts tokens."""
    n, limit = model_config.num_streams, model_config.max_tokens
    if asked is not None and asked > limit:
        raise ConfigError(
            f"--max-model-len asks for {asked} tokens = {tokens_to_positions(asked, n)} positions, but the model's "
            f"context is {limit} tokens = {model_config.max_position_embeddings} positions (n = {n}); "
            f"use at most {limit}"
        )


def end_tokens(config: Qwen3ScaleSeqConfig, generation_config: dict[str, Any], tokenizer: Any | None) -> frozenset[int]:
    """All tokens that end an answer: the configs', the tokenizer's, and ChatML's `<|im_end|>` whatever they say."""
    ends: set[int] = set()
    for source in (config.eos_token_id, generation_config.get("eos_token_id")):
        if source is not None:
            ends.update([source] if isinstance(source, int) else source)
    if tokenizer is not None:
        if tokenizer.eos_token_id is not None:
            ends.add(tokenizer.eos_token_id)
        if CHAT_END in tokenizer.get_added_vocab():
            ends.add(tokenizer.convert_tokens_to_ids(CHAT_END))
    return frozenset(end for end in ends if end < config.vocab_size)


def parameter_count(config: Qwen3ScaleSeqConfig) -> int:
    """All parameters of the model, wherever they lie and in whatever form."""
    counts = {name: math.prod(shape) for name, shape in expected_tensors(config).items()}
    return count_parameters(counts, config).total


def free_memory_bytes(device: torch.device) -> int:
    """Memory that can be taken without swapping (system) or that is free (CUDA)."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 4 * 2**30


def kv_capacity_tokens(
    model_config: Qwen3ScaleSeqConfig, config: EngineConfig, *, dtype: torch.dtype, device: torch.device
) -> int:
    """Tokens the KV pool shall hold: whole blocks within the budget, and no more than could ever be used."""
    per_token = bytes_per_token(model_config, dtype)
    if config.kv_cache_memory_bytes is not None:
        budget = parse_size(config.kv_cache_memory_bytes)
        if budget > (free := free_memory_bytes(device)):
            raise CapacityError(
                f"--kv-cache-memory-bytes asks for {budget / 2**20:.0f} MiB, but only {free / 2**20:.0f} MiB are free; "
                "ask for less"
            )
    else:
        budget = int(free_memory_bytes(device) * config.kv_cache_fraction)
    longest = config.max_model_len or model_config.max_tokens
    useful = -(-longest // config.block_size) * config.max_num_seqs
    blocks = min(budget // (per_token * config.block_size), useful)
    if blocks < 2:
        raise CapacityError(
            f"the KV cache may take {budget / 2**20:.1f} MiB, but two blocks of {config.block_size} tokens "
            f"({tokens_to_positions(config.block_size, model_config.num_streams)} positions) each need "
            f"{2 * per_token * config.block_size / 2**20:.1f} MiB; raise --kv-cache-memory-bytes"
        )
    return blocks * config.block_size


def context_tokens_of(model_config: Qwen3ScaleSeqConfig, config: EngineConfig, capacity_tokens: int) -> int:
    """Longest sequence in tokens: what was asked for, else the checkpoint's context, within the KV pool."""
    asked = config.max_model_len
    refuse_long_context(model_config, asked)
    if asked is not None and asked > capacity_tokens:
        raise CapacityError(
            f"--max-model-len asks for {asked} tokens, but the KV cache holds {capacity_tokens}; "
            "raise --kv-cache-memory-bytes or lower --max-model-len"
        )
    return min(asked or model_config.max_tokens, capacity_tokens)
