"""Limits in tokens for a model that counts positions, and refusal of what cannot work, before weights are loaded.

Contract: the context is `max_position_embeddings // n` tokens in both position schemes; more is refused with both units
and the value to use. A slot of the KV cache has room for n rows. Called by SGLang through `plugin`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from hidden_decoding.errors import ConfigError
from hidden_decoding.streams import context_tokens, tokens_to_positions

logger = logging.getLogger(__name__)

SUPPORTED_BACKENDS = ("torch_native",)


def streams_in(config: Any) -> int:
    """Number of streams a configuration asks for; 1 for every model that is not ours."""
    return int(getattr(config, "num_streams", 1))


def context_in_tokens(original: Callable[..., None], model_config: Any, context_length: int | None) -> None:
    """Stands around `ModelConfig._derive_context_length`, which would take positions for tokens.

    SGLang would also multiply the number by a linear RoPE factor. Raises `ConfigError` above the limit.
    """
    config = model_config.hf_text_config
    n = streams_in(config)
    if not hasattr(config, "scale_seq_times"):
        return original(model_config, context_length)
    positions = config.max_position_embeddings
    limit = context_tokens(positions, n)
    if context_length is not None and context_length > limit:
        raise ConfigError(
            f"--context-length {context_length} counts tokens, and the model's {positions} positions hold "
            f"{limit} tokens at n = {n} streams ({context_length} tokens would be "
            f"{tokens_to_positions(context_length, n)} positions); use --context-length {limit} or less"
        )
    tokens = limit if context_length is None else context_length
    logger.info("n = %d streams: the context is %d tokens = %d positions", n, tokens, tokens_to_positions(tokens, n))
    return original(model_config, tokens)


def kv_heads_of_a_slot(original: Callable[..., int], model_config: Any, *args: Any, **kwargs: Any) -> int:
    """Stands around `ModelConfig.get_num_kv_heads`: a slot holds the heads of n rows, so the pool is sized for them."""
    return tokens_to_positions(original(model_config, *args, **kwargs), streams_in(model_config.hf_text_config))


def overrides(server_args: Any, hf_config: Any) -> dict[str, Any]:
    """SGLang's hook for one architecture: refuses what cannot work, and sets nothing for one stream."""
    n = streams_in(hf_config)
    if n == 1:
        return {}
    for reason in refusals(server_args, hf_config):
        raise ConfigError(f"{reason} (this model reads n = {n} positions per token)")
    return {}


def refusals(args: Any, hf_config: Any) -> list[str]:
    """Why the settings cannot work with several positions per token; empty when they can."""

    def given(name: str, usual: Any = None) -> Any:
        return getattr(args, name, usual)

    found = []
    if given("enable_lora") or given("lora_paths"):
        found.append(
            "--enable-lora picks adapters by token while the layers run on positions; merge the adapter first: "
            "hidden-decoding export ADAPTER --out DIR"
        )
    if (algorithm := given("speculative_algorithm")) is not None:
        found.append(f"--speculative-algorithm {algorithm} is not tested with n rows per slot; drop it")
    if (given("pp_size") or 1) > 1:
        found.append("--pp-size above 1 would hand positions between stages, which is not tested; use --tp-size")
    if (given("attn_dp_size") or 1) > 1 or given("enable_dp_attention"):
        found.append("data-parallel attention pads batches by tokens, which is not tested; drop its flags")
    if (given("attn_cp_size") or 1) > 1 or (given("dcp_size") or 1) > 1:
        found.append("context parallelism would deal a token's rows out to different ranks; drop its flags")
    if given("enable_hierarchical_cache"):
        found.append("--enable-hierarchical-cache moves slots by other kernels, which is not tested; drop it")
    if (given("disaggregation_mode") or "null") != "null":
        found.append("--disaggregation-mode moves slots between machines, which is not tested; drop it")
    if given("enable_two_batch_overlap"):
        found.append("--enable-two-batch-overlap splits a batch between rows, which is not tested; drop it")
    if (given("kv_cache_dtype") or "auto") not in {"auto", "bf16", "bfloat16"}:
        found.append(f"--kv-cache-dtype {given('kv_cache_dtype')} is not tested with n rows per slot; use auto")
    if getattr(hf_config, "is_stream_factorised", False):
        found.append(
            "stream_attention in config.json gives layers stream-factorised attention, which the SGLang plugin does "
            "not compute; run this checkpoint with transformers"
        )
    if "sliding_attention" in (getattr(hf_config, "layer_types", None) or []):
        found.append("sliding-window attention: whether its window counts tokens or positions was never tested")
    return found
