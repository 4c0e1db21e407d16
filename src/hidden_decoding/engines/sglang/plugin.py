"""What SGLang calls at start-up, in every one of its processes (entry point `sglang.srt.plugins`).

Contract: idempotent and touches no device. SGLang only logs a plugin that fails; so `model` checks at each
forward that attention runs in a backend of ours.
"""

from __future__ import annotations

ARCHITECTURE = "Qwen3ScaleSeqForCausalLM"
MODEL_TYPE = "qwen3_scale_seq"
MODEL_CONFIG = "sglang.srt.configs.model_config.ModelConfig"


def register() -> None:
    """Makes SGLang know our configuration, model, limits and attention backends."""
    from sglang.srt.arg_groups.overrides import register_model_override
    from sglang.srt.models.registry import ModelRegistry
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType
    from transformers import AutoConfig

    from hidden_decoding.engines.sglang.backend import register_backends
    from hidden_decoding.engines.sglang.limits import context_in_tokens, kv_heads_of_a_slot, overrides
    from hidden_decoding.engines.sglang.model import EntryClass
    from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig

    AutoConfig.register(MODEL_TYPE, Qwen3ScaleSeqConfig, exist_ok=True)
    if ModelRegistry.models.get(ARCHITECTURE) is EntryClass:
        return
    ModelRegistry.models[ARCHITECTURE] = EntryClass
    register_model_override(ARCHITECTURE)(overrides)
    register_backends()
    HookRegistry.register(f"{MODEL_CONFIG}.get_num_kv_heads", kv_heads_of_a_slot, HookType.AROUND)
    HookRegistry.register(f"{MODEL_CONFIG}._derive_context_length", context_in_tokens, HookType.AROUND)
