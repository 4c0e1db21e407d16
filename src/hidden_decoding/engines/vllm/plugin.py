"""What vLLM calls at start-up, in every one of its processes (entry point `vllm.general_plugins`).

Contract: idempotent, touches no device, and imports no network; vLLM imports the model class by name when it needs it.
"""

from __future__ import annotations

ARCHITECTURE = "Qwen3ScaleSeqForCausalLM"
MODEL_TYPE = "qwen3_scale_seq"


def register() -> None:
    """Makes vLLM know our configuration, our model, and the limits that follow from the number of streams."""
    from transformers import AutoConfig
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP
    from vllm.transformers_utils.model_arch_config_convertor import MODEL_ARCH_CONFIG_CONVERTORS

    from hidden_decoding.engines.vllm.limits import ScaleSeqConvertor, ScaleSeqLimits
    from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig

    AutoConfig.register(MODEL_TYPE, Qwen3ScaleSeqConfig, exist_ok=True)
    MODEL_ARCH_CONFIG_CONVERTORS[MODEL_TYPE] = ScaleSeqConvertor
    MODELS_CONFIG_MAP[ARCHITECTURE] = ScaleSeqLimits
    ModelRegistry.register_model(ARCHITECTURE, "hidden_decoding.engines.vllm.model:VllmQwen3ScaleSeqForCausalLM")
