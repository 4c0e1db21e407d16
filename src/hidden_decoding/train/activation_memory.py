"""How many bytes of activations a training step holds, from the model's own code, without its weights or a device.

Contract: the model is built with two and with three of its layers on fake tensors (shapes without memory), and what
autograd saves in a forward pass is counted, storage by storage; the difference is one layer. So the figure follows the
model and PyTorch's operators instead of a formula of ours. What the backward pass needs beside it (the gradients inside
one layer, the logits of a chunk) is arithmetic, given where it is used.

Place in the flow: used by `plan.py`; held against real processes by benchmarks/train_memory.py.

    >>> activations(config, rows=1, tokens=4096, attention="sdpa", compute="bf16")
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig
from hidden_decoding.modeling.model import Qwen3ScaleSeqForCausalLM
from hidden_decoding.streams import tokens_to_positions

MASKED = ("sdpa", "eager")  # attention that keeps documents apart by a dense mask


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Bytes on one GPU. `layer` is saved by one decoder layer, `two_layers` by a model of two (whose last keeps
    less), `outside` by what is in no layer, `boundary` is a layer's input.

    `backward` is what one layer's backward pass needs on top of what is saved: gradients inside its MLP.
    """

    layer: int
    two_layers: int
    outside: int
    boundary: int
    backward: int

    def saved(self, layers: int, *, checkpointing: bool) -> int:
        """What is held when the forward pass ends."""
        if checkpointing:
            return self.outside + layers * self.boundary
        return self.two_layers + (layers - 2) * self.layer


def activations(
    config: Qwen3ScaleSeqConfig, *, rows: int, tokens: int, attention: str = "sdpa", compute: str = "fp32"
) -> Activations:
    """Activations of a pass over `rows` rows of `tokens` tokens.

    `compute` says how weights take part: `fp32`, `bf16` (stored so, as FSDP gathers them) or `autocast` (cast to bf16).
    """
    two, three = (_saved_bytes(config, layers, rows, tokens, attention, compute) for layers in (2, 3))
    layer = three - two
    width = 2 if compute == "bf16" else 4
    positions = rows * tokens_to_positions(tokens, config.num_streams)
    inner = 2 if compute != "fp32" else 4
    outside = _saved_bytes(config, 2, rows, tokens, attention, compute, checkpointing=True)
    return Activations(
        layer=layer,
        two_layers=two,
        outside=outside,
        boundary=positions * config.hidden_size * width,
        backward=2 * positions * config.intermediate_size * inner,
    )


def _saved_bytes(
    config: Qwen3ScaleSeqConfig,
    layers: int,
    rows: int,
    tokens: int,
    attention: str,
    compute: str,
    checkpointing: bool = False,
) -> int:
    """Bytes of the distinct storages that autograd saves in the backbone's forward pass, weights not counted."""
    seen: dict[int, tuple[int, Any]] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        seen[storage._cdata] = (storage.nbytes(), storage)  # held, so that no other storage takes its place
        return tensor

    cast: Any = torch.autocast("cpu", dtype=torch.bfloat16) if compute == "autocast" else contextlib.nullcontext()
    with FakeTensorMode(), torch.device("cpu"):
        with _default_dtype(torch.bfloat16 if compute == "bf16" else torch.float32):
            model: Any = Qwen3ScaleSeqForCausalLM(_shortened(config, layers, attention)).train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        ids = torch.zeros(rows, tokens, dtype=torch.long)
        mask = torch.ones(rows, 1, tokens, tokens, dtype=torch.bool) if attention in MASKED else None
        if mask is not None and attention == "eager":
            mask = mask.float()
        own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), cast:
            model.model(input_ids=ids, attention_mask=mask, use_cache=False)
    return sum(count for key, (count, _) in seen.items() if key not in own)


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _shortened(config: Qwen3ScaleSeqConfig, layers: int, attention: str) -> Qwen3ScaleSeqConfig:
    fields = config.to_dict()
    for key in ("architectures", "auto_map", "dtype", "torch_dtype", "layer_types"):
        fields.pop(key, None)
    fields["num_hidden_layers"] = layers
    if fields.get("stream_attention"):
        fields["stream_attention"] = fields["stream_attention"][:layers]
    return Qwen3ScaleSeqConfig(**fields, attn_implementation=attention if attention in MASKED else "sdpa")
