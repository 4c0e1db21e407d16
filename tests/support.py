"""Tiny checkpoints and the brute-force reference every equivalence is measured against.

The reference is plain `Qwen3ForCausalLM` fed interleaved embeddings, recomputed in full for every token, in fp32: no
code of ours but the list of tables. Weights are scaled so that streams matter (see `tiny_model`).
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging as transformers_logging

from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig
from hidden_decoding.modeling.model import Qwen3ScaleSeqForCausalLM
from hidden_decoding.train.tokenizer import standard_library_texts, train_tokenizer
from tests.equivalence.tolerances import FP32_LOGITS, TIE_FACTOR

LOGIT_TOLERANCE = FP32_LOGITS

# Bars of fixtures that save checkpoints would end up in what tests of the command line capture.
transformers_logging.disable_progress_bar()


def tiny_config(num_streams: int, positions: str = "contiguous", **overrides) -> Qwen3ScaleSeqConfig:
    """A 3-layer configuration with grouped heads; `positions` is the scheme, the context 256 tokens in both."""
    rope = {"rope_type": "default", "rope_theta": 100.0}
    if positions == "linear" and num_streams > 1:
        rope = {**rope, "rope_type": "linear", "factor": float(num_streams)}
    fields = {
        "scale_seq_times": num_streams - 1,
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 256 * num_streams,
        "rope_parameters": rope,
        "eos_token_id": 0,
        "tie_word_embeddings": False,
        "dtype": "float32",
    }
    return Qwen3ScaleSeqConfig(**{**fields, **overrides})


def tiny_model(num_streams: int, positions: str = "contiguous", seed: int = 0, **overrides) -> Qwen3ScaleSeqForCausalLM:
    """Random weights scaled so that every table, its place and its positions matter (`test_model_controls`).

    Sharp attention (q_norm 2, a small RoPE base) makes streams and positions distinct; a weak MLP keeps rounding errors
    from growing. Sharper yet would make rounding errors exceed the tolerance. Logits are of order 10, tied or not.
    """
    model = Qwen3ScaleSeqForCausalLM(tiny_config(num_streams, positions, **overrides)).eval()
    generator = torch.Generator().manual_seed(seed)
    embed_std = 0.25 if model.config.tie_word_embeddings else 1.0
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                std = embed_std if "embed" in name else 0.0625 if "mlp" in name else 0.25
                weight.copy_(torch.randn(weight.shape, generator=generator) * std)
            elif "q_norm" in name:
                weight.fill_(2.0)
    return model


def plain_qwen3(model: Qwen3ScaleSeqForCausalLM) -> Qwen3ForCausalLM:
    """Stock Qwen3 with the model's backbone and head."""
    fields = model.config.to_dict()
    for key in ("scale_seq_times", "model_type", "architectures", "auto_map"):
        fields.pop(key, None)
    reference = Qwen3ForCausalLM(Qwen3Config(**fields)).eval().to(model.dtype)
    weights = {name: weight for name, weight in model.state_dict().items() if "scale_seq_embed" not in name}
    reference.load_state_dict(weights, strict=True)
    return reference


class BruteForce:
    """Greedy decoding and logits by plain Qwen3 on interleaved embeddings, no cache, one sequence at a time."""

    def __init__(self, model: Qwen3ScaleSeqForCausalLM) -> None:
        self.tables = [model.model.embed_tokens, *model.model.scale_seq_embed_tokens_list]
        self.reference = plain_qwen3(model)

    @torch.no_grad()
    def logits(self, ids: list[int] | torch.Tensor) -> torch.Tensor:
        """Logits after each token: [T, V]."""
        ids_T = torch.as_tensor(ids).flatten()
        rows = [table(ids_T[t]) for t in range(len(ids_T)) for table in self.tables]
        logits_PV = self.reference(inputs_embeds=torch.stack(rows)[None], use_cache=False).logits[0]
        return logits_PV[len(self.tables) - 1 :: len(self.tables)]

    def greedy(self, prompt: list[int], max_tokens: int) -> tuple[list[int], list[float]]:
        """The next `max_tokens` tokens, and at each the gap between the two best logits."""
        ids, gaps = list(prompt), []
        for _ in range(max_tokens):
            best = self.logits(ids)[-1].topk(2)
            gaps.append(float(best.values[0] - best.values[1]))
            ids.append(int(best.indices[0]))
        return ids[len(prompt) :], gaps


def assert_same_greedy(actual: list[int], expected: list[int], gaps: list[float], tolerance: float) -> int:
    """Tokens must be equal up to the first tie (top-2 gap within 10x the tolerance); returns how many were compared."""
    for index, (got, want, gap) in enumerate(zip(actual, expected, gaps, strict=True)):
        if gap <= TIE_FACTOR * tolerance:
            return index
        assert got == want, f"token {index}: got {got}, reference says {want} with a top-2 gap of {gap:.2e}"
    return len(expected)


@functools.lru_cache(maxsize=4)
def tiny_tokenizer(vocab_size: int = 512):
    """Byte-level BPE with ChatML tokens, trained on the language reference."""
    return train_tokenizer(standard_library_texts(limit_bytes=200_000), vocab_size)


def save_tiny_checkpoint(directory: Path, num_streams: int, positions: str = "contiguous", **overrides) -> Path:
    """A complete checkpoint directory (weights, config, tokenizer with chat template) and its path."""
    tiny_model(num_streams, positions, **overrides).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory
