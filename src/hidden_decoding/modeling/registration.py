"""Tells transformers' Auto classes about hidden-decoding checkpoints, so that they load through our classes."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig
from hidden_decoding.modeling.model import Qwen3ScaleSeqForCausalLM, Qwen3ScaleSeqModel


def register() -> None:
    """Makes `AutoConfig`, `AutoModel` and `AutoModelForCausalLM` know `model_type: qwen3_scale_seq`. Idempotent.

    Without `trust_remote_code` a registered class is used even when the checkpoint carries Python files of its own;
    those are never executed.
    """
    AutoConfig.register("qwen3_scale_seq", Qwen3ScaleSeqConfig, exist_ok=True)
    AutoModel.register(Qwen3ScaleSeqConfig, Qwen3ScaleSeqModel, exist_ok=True)
    AutoModelForCausalLM.register(Qwen3ScaleSeqConfig, Qwen3ScaleSeqForCausalLM, exist_ok=True)
