"""Limits in tokens for a model that counts positions, and refusal of what cannot work, before weights are loaded.

Contract: the context is `max_position_embeddings // n` tokens in both position schemes, a default batch holds as many
positions as vLLM's default holds tokens, and the log gives both units. vLLM calls these classes while it makes its
configuration: `ScaleSeqConvertor` when it derives the context, `ScaleSeqLimits` when the rest is known.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from vllm.config import SchedulerConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.logger import init_logger
from vllm.model_executor.models.config import VerifyAndUpdateConfig
from vllm.platforms import current_platform
from vllm.transformers_utils.model_arch_config_convertor import ModelArchConfigConvertorBase

from hidden_decoding.errors import ConfigError
from hidden_decoding.streams import context_tokens, positions_to_tokens, tokens_to_positions

if TYPE_CHECKING:
    from vllm.config import ModelConfig, VllmConfig

# vLLM shows the messages of loggers below its own name only.
logger = init_logger("vllm.plugins.hidden_decoding")

TRIED_SPECULATION = ("ngram",)


class ScaleSeqConvertor(ModelArchConfigConvertorBase):
    """Derives the context in tokens."""

    def derive_max_model_len_and_key(self) -> tuple[float, str | None]:
        """(tokens, where they come from). vLLM multiplies the number by a linear RoPE factor: divided out here."""
        config = self.hf_text_config
        n, positions = config.num_streams, config.max_position_embeddings
        tokens = context_tokens(positions, n)
        key = f"max_position_embeddings, which is {positions} positions at n = {n}: in tokens "
        return undo_factor(tokens, linear_factor(config)), key


def linear_factor(config: Any) -> float:
    """The factor of linear RoPE; 1 for any other kind."""
    rope = config.rope_parameters or {}
    return float(rope.get("factor") or 1.0) if rope.get("rope_type") == "linear" else 1.0


def undo_factor(value: int, factor: float) -> float:
    """A number x with `int(x * factor) == value`, in spite of rounding."""
    divided = value / factor
    while int(divided * factor) < value:
        divided = math.nextafter(divided, math.inf)
    return divided


class ScaleSeqLimits(VerifyAndUpdateConfig):
    """vLLM's hook for one architecture. With one stream everything stays as it is."""

    @staticmethod
    def verify_and_update_model_config(model_config: ModelConfig) -> None:
        """Says the context in both units; refuses what the model alone rules out."""
        config, n = model_config.hf_text_config, model_config.hf_text_config.num_streams
        if n == 1:
            return
        if "sliding_attention" in (config.layer_types or []) or model_config.get_sliding_window() is not None:
            raise ConfigError(
                f"sliding-window attention is in use with n = {n} streams, and nobody has tested whether its window "
                "should count tokens or positions; set use_sliding_window to false in config.json"
            )
        if config.is_stream_factorised:
            raise ConfigError(
                "stream_attention in config.json gives layers stream-factorised attention, which the vLLM plugin does "
                "not compute; run this checkpoint with transformers"
            )
        if model_config.enable_prompt_embeds:
            raise ConfigError(
                f"--enable-prompt-embeds gives one embedding per token, but this model reads {n}: send token ids"
            )
        logger.info(
            "n = %d streams: the context is %d tokens = %d positions",
            n,
            model_config.max_model_len,
            tokens_to_positions(model_config.max_model_len, n),
        )

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        """Refuses what cannot work with several positions per token; sets defaults that fit."""
        n = vllm_config.model_config.hf_text_config.num_streams
        if vllm_config.parallel_config.pipeline_parallel_size > 1:
            raise ConfigError(
                "--pipeline-parallel-size above 1 is not supported for this architecture: what stages hand on would "
                "count positions, which is not tested; use --tensor-parallel-size"
            )
        if vllm_config.lora_config is not None:
            raise ConfigError(
                "--enable-lora is not supported for this architecture: vLLM picks adapters by token, the layers run on "
                "positions; merge the adapter first: hidden-decoding export ADAPTER --out DIR"
            )
        if n == 1:
            return
        for reason in refusals(vllm_config):
            raise ConfigError(f"{reason} (this model reads n = {n} positions per token)")
        fit_batch(vllm_config, n)
        # Sized and switched by tokens, but the layers' activations have n rows for each.
        vllm_config.compilation_config.pass_config.fuse_allreduce_rms = False
        vllm_config.compilation_config.pass_config.enable_sp = False
        if current_platform.is_cuda() and vllm_config.attention_config.backend is None:
            choose_cuda_backend(vllm_config)


def refusals(vllm_config: VllmConfig) -> list[str]:
    """Why the configuration cannot work with several positions per token; empty when it can."""
    parallel, speculative = vllm_config.parallel_config, vllm_config.speculative_config
    found = []
    if parallel.decode_context_parallel_size > 1:
        found.append("--decode-context-parallel-size above 1 would deal a token's rows out to different ranks; drop it")
    if parallel.prefill_context_parallel_size > 1:
        found.append("--prefill-context-parallel-size above 1 would split prompts between a token's rows; drop it")
    if parallel.enable_dbo:
        found.append("--enable-dbo splits a batch into halves, which is not tested with expanded batches; drop it")
    if speculative is not None and speculative.method not in TRIED_SPECULATION:
        found.append(
            f"speculation by {speculative.method!r} is not supported: drafts made from hidden states (EAGLE, MTP, "
            f"Medusa) see n rows per token, other drafters are not tested; use {', '.join(TRIED_SPECULATION)}"
        )
    if vllm_config.kv_transfer_config is not None:
        found.append("KV connectors move one row per token and slot, but a slot owns n rows; drop --kv-transfer-config")
    return found


def fit_batch(vllm_config: VllmConfig, num_streams: int) -> None:
    """Divides a *default* batch by n: activations are as large as the positions are many.

    vLLM does not tell a default from the same number given by hand; any other number is kept as it is.
    """
    scheduler, parallel = vllm_config.scheduler_config, vllm_config.parallel_config
    asked = scheduler.max_num_batched_tokens
    if asked in default_batches(parallel.world_size):
        fitting = max(positions_to_tokens(asked, num_streams), scheduler.max_num_seqs)
        if not scheduler.enable_chunked_prefill:
            fitting = max(fitting, vllm_config.model_config.max_model_len)
        scheduler.max_num_batched_tokens = min(asked, fitting)
    logger.info(
        "n = %d streams: at most %d tokens = %d positions in one step (vLLM's default is divided by n; give "
        "--max-num-batched-tokens, in tokens, to choose)",
        num_streams,
        scheduler.max_num_batched_tokens,
        tokens_to_positions(scheduler.max_num_batched_tokens, num_streams),
    )


def default_batches(world_size: int) -> set[int]:
    """All sizes vLLM might have chosen by itself for a step on this machine, in tokens."""
    by_usage, _ = EngineArgs.get_batch_defaults(world_size)
    sizes = {*by_usage.values(), SchedulerConfig.DEFAULT_MAX_NUM_BATCHED_TOKENS}
    return sizes | {2 * size for size in sizes}  # performance mode "throughput" doubles


def choose_cuda_backend(vllm_config: VllmConfig) -> None:
    """Takes a supported backend where vLLM's own first choice may be another."""
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    half = vllm_config.model_config.dtype.itemsize == 2
    backend = AttentionBackendEnum.FLASH_ATTN if half else AttentionBackendEnum.TRITON_ATTN
    vllm_config.attention_config.backend = backend
    logger.info("attention backend %s chosen (--attention-backend chooses another)", backend.name)
