"""Loads a checkpoint for computing only: tensor by tensor, packed as it comes, extra tables left where they are.

Contract: never more than one tensor beyond the final model in memory. The tables of streams 2..n can stay in the file
(`mmap`), in host memory beside a GPU (`host`, pinned), or be loaded like any other weight (`device`): a token touches
only n of their rows. Sits between `modeling.checkpoint`, which verifies, and the engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

from hidden_decoding.engines.local.int8_linear import Int8Linear
from hidden_decoding.engines.local.loading import refuse_early
from hidden_decoding.engines.local.packed_linear import PackedLinear, packing_available
from hidden_decoding.errors import CapacityError
from hidden_decoding.modeling.checkpoint import load_config, torch_dtype, verify_checkpoint
from hidden_decoding.modeling.model import EXTRA_TABLES, Qwen3ScaleSeqForCausalLM
from hidden_decoding.modeling.safetensors_file import DTYPES, TensorEntry
from hidden_decoding.streams import tokens_to_positions

# Measured on two AVX-512 cores: 1 row 23 ms plain and 29 packed, 2 rows 27 and 33, 4 rows 46 and 34, 8 rows 54 and 36.
_PLAIN_ROWS = 2

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hidden_decoding.engines.local.engine_config import EngineConfig


class HostTable(nn.Module):
    """An embedding table that stays on the host: rows are looked up there and sent on, ids [...] -> [..., D]."""

    def __init__(self, rows_VD: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.rows_VD = rows_VD
        self.dtype, self.device = dtype, device

    def forward(self, ids: Tensor) -> Tensor:
        """[...] -> [..., D] on the model's device, in the model's dtype."""
        rows = embedding(ids.to(self.rows_VD.device), self.rows_VD)
        if self.device.type == "cuda":
            # Only from pinned memory does the copy run beside the host; its cache reuses it after the copy has ended.
            rows = rows.pin_memory()
        return rows.to(self.device, non_blocking=True).to(self.dtype)


def linear_form(config: EngineConfig, num_streams: int) -> str:
    """What becomes of linear layers: `int8`, `packed` or `plain`.

    The blocked layout is slower than the plain one for one or two rows and faster from four on: an engine that never
    decodes more than two rows at once (one request, n = 1 or 2) keeps the plain one.
    """
    if config.quantization != "none":
        return config.quantization
    most_rows = tokens_to_positions(config.max_num_seqs, num_streams)
    return "packed" if config.pack_weights and most_rows > _PLAIN_ROWS else "plain"


def load_for_engine(directory: Path, config: EngineConfig, device: torch.device) -> Qwen3ScaleSeqForCausalLM:
    """The model as the engine's settings want it. What `config.json` already rules out is refused before any weight."""
    model_config = load_config(directory)
    refuse_early(model_config, config)
    linear = linear_form(config, model_config.num_streams)
    return load_for_computing(
        directory, dtype=config.dtype, device=device, stream_tables=config.stream_tables, linear=linear
    )


def load_for_computing(
    directory: Path, *, dtype: str, device: torch.device, stream_tables: str = "auto", linear: str = "packed"
) -> Qwen3ScaleSeqForCausalLM:
    """The verified model of a directory, ready to compute (not to train or save).

    `stream_tables`: see the module. `linear`: `plain`, `packed` (where there are kernels) or `int8` (all but the head).
    """
    config = load_config(directory)
    tensors = verify_checkpoint(directory, config)
    wanted = torch_dtype(dtype, config, tensors)
    if stream_tables == "auto":
        stream_tables = "mmap" if device.type == "cpu" else "device"
    with torch.device("meta"):
        model: Qwen3ScaleSeqForCausalLM = Qwen3ScaleSeqForCausalLM(config)
    convert = _converter(linear, device, wanted)
    tied = config.tie_word_embeddings
    try:
        for name, (path, entry) in tensors.items():
            if tied and name == "lm_head.weight":
                continue
            mapped = map_tensor(path, entry)
            if name.startswith(EXTRA_TABLES) and stream_tables != "device":
                _replace(model, name, HostTable(_host_rows(mapped, stream_tables), wanted, device))
            else:
                _load(model, name, mapped.to(device=device, dtype=wanted, copy=True), convert)
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        if "memory" not in f"{type(error).__name__} {error}".lower():
            raise
        raise CapacityError(
            f"there is not enough memory to load {directory.name}; what it needs: hidden-decoding inspect {directory}"
        ) from error
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    # Its buffers are computed, not stored.
    model.model.rotary_emb = Qwen3RotaryEmbedding(config).to(device)
    model.eval()
    return model


def map_tensor(path: Path, entry: TensorEntry) -> Tensor:
    """A tensor over the bytes of a file: nothing is read before it is used. Changes to it never reach the file."""
    dtype: torch.dtype = getattr(torch, DTYPES[entry.dtype][1])
    raw = np.memmap(path, dtype=np.uint8, mode="c", offset=entry.start, shape=(entry.nbytes,))
    return torch.from_numpy(raw).view(dtype).view(entry.shape)


def _host_rows(mapped: Tensor, stream_tables: str) -> Tensor:
    if stream_tables == "mmap":
        return mapped
    held = mapped.clone()
    return held.pin_memory() if torch.cuda.is_available() else held


def _load(model: nn.Module, name: str, weight: Tensor, convert: Callable[[str, nn.Linear], nn.Module]) -> None:
    """Puts one loaded tensor in its place; a linear layer that has all of its own takes its final form at once."""
    owner_name, _, attribute = name.rpartition(".")
    owner = model.get_submodule(owner_name)
    setattr(owner, attribute, nn.Parameter(weight, requires_grad=False))
    has_all = all(not parameter.is_meta for parameter in owner.parameters(recurse=False))
    if type(owner) is nn.Linear and has_all:
        _replace(model, name, convert(owner_name, owner))


def _converter(linear: str, device: torch.device, dtype: torch.dtype) -> Callable[[str, nn.Linear], nn.Module]:
    """(name, layer) -> the layer in its final form."""
    if linear == "int8":
        # The head's rounding would show in every logit, and it is read once a token, not n times.
        return lambda name, layer: layer if name == "lm_head" else Int8Linear(layer)
    if linear == "packed" and packing_available(device, dtype):
        return lambda _, layer: PackedLinear(layer)
    return lambda _, layer: layer


def _replace(model: nn.Module, weight_name: str, module: nn.Module) -> None:
    """Puts `module` where the module that owns `weight_name` was."""
    parent_name, _, child = weight_name.rpartition(".")[0].rpartition(".")
    parent: Any = model.get_submodule(parent_name)
    setattr(parent, child, module)
