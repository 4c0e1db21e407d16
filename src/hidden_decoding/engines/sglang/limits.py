"""Limits in tokens for a model that counts positions, and refusal of what cannot work, before weights are loaded.

Contract: the context is `max_position_embeddings // n` tokens in both position schemes; more is refused with both units
and the value to use. A slot of the KV cache has room for n rows. Called by SGLang through `plugin`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from hidden_decoding.errors import ConfigError
from hidden_decoding.streams import context_tokens, positions_to_tokens, tokens_to_positions

logger = logging.getLogger(__name__)

# torch_native is tested. fa3 and triton are written from their sources and checked as far as a CPU can.
SUPPORTED_BACKENDS = ("torch_native", "fa3", "triton")
SOURCE = "hidden_decoding"  # who declares a setting, in SGLang's records


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
    """SGLang's hook for one architecture: refuses what cannot work, sets defaults that fit, leaves one stream alone."""
    n = streams_in(hf_config)
    if n == 1:
        return {}
    for reason in refusals(server_args, hf_config):
        raise ConfigError(f"{reason} (this model reads n = {n} positions per token)")
    changed = defaults(server_args, n)
    # SGLang lets a model override a few fields only, and this one is declared by hooks of its own instead.
    if (tokens := changed.pop("chunked_prefill_size", None)) is not None:
        from sglang.srt.arg_groups.overrides import declare_resolution

        declare_resolution(server_args, SOURCE, chunked_prefill_size=tokens)
    return changed


def defaults(args: Any, num_streams: int) -> dict[str, Any]:
    """What SGLang would choose by itself and must not, with several positions per token. What the user gave stays."""
    from sglang.srt.arg_groups.overrides import resolving_view
    from sglang.srt.model_executor.cuda_graph_config import Backend, Phase, with_phase

    chosen, asked = resolving_view(args), getattr(args, "_raw_input", None) or {}
    changed: dict[str, Any] = {}
    # What Qwen3 has; SGLang knows it by the architecture's name.
    if chosen.boundary_reduction == "auto":
        changed["boundary_reduction"] = "ar"
    if chosen.attention_backend is None and chosen.prefill_attention_backend is None:
        changed["attention_backend"] = fastest_backend(chosen.device, chosen.dtype)
    declared = any(source == SOURCE for source, _ in getattr(args, "_resolved_overrides", None) or [])
    if not declared and asked.get("chunked_prefill_size") is None and (chosen.chunked_prefill_size or 0) > 0:
        # Activations are as large as the positions are many. SGLang wants whole pages.
        tokens, page = positions_to_tokens(chosen.chunked_prefill_size, num_streams), chosen.page_size or 1
        changed["chunked_prefill_size"] = max(page, tokens - tokens % page)
    graphs = chosen.cuda_graph_config
    if graphs is not None and graphs.prefill.backend != Backend.DISABLED:
        changed["cuda_graph_config"] = with_phase(graphs, Phase.PREFILL, backend=Backend.DISABLED)
    for name, value in changed.items():
        shown = "prefill graphs off" if name == "cuda_graph_config" else f"{name} = {value}"
        logger.info("n = %d streams: %s", num_streams, shown)
    return changed


def fastest_backend(device: str, dtype: str) -> str:
    """The supported attention backend that SGLang itself would prefer on this machine."""
    import torch

    if device != "cuda" or not torch.cuda.is_available():
        return "torch_native"
    half = dtype in {"auto", "half", "float16", "bfloat16"}
    return "fa3" if half and torch.cuda.get_device_capability()[0] == 9 else "triton"


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
    if given("enable_deterministic_inference"):
        found.append("--enable-deterministic-inference picks kernels that are not tested with n rows per slot; drop it")
    if given("enable_torch_compile"):
        found.append("--enable-torch-compile is not tested with expanded batches; drop it")
    if given("enable_pdmux"):
        found.append("--enable-pdmux makes several attention backends at once, which is not tested; drop it")
    if (prefill := given("prefill_attention_backend")) != (decode := given("decode_attention_backend")):
        found.append(
            f"--prefill-attention-backend {prefill} and --decode-attention-backend {decode} would be two backends "
            "under one, which is not tested; give --attention-backend"
        )
    if (graph := given("cuda_graph_backend_prefill")) not in {None, "disabled"}:
        found.append(f"--cuda-graph-backend-prefill {graph} would capture prompts, which is not supported; drop it")
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
