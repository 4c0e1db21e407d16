"""What a checkpoint or a bare `config.json` is: streams, parameters, memory, context, and whether the weights fit.

Contract: `inspect_checkpoint` reads headers only, never weights, and reports missing and unexpected tensors instead of
raising; broken files and configurations that cannot work do raise. Feeds `hidden-decoding inspect` and `memory_plan`.

    >>> inspect_checkpoint("path/to/checkpoint").parameters.total
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hidden_decoding.modeling.checkpoint import (
    compare_tensors,
    expected_tensors,
    load_config,
    tensor_index,
    torch_dtype,
    weights_are_here,
)
from hidden_decoding.modeling.model import EXTRA_TABLES
from hidden_decoding.modeling.safetensors_file import INDEX_FILE
from hidden_decoding.streams import kv_bytes_per_token

if TYPE_CHECKING:
    from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Numbers of parameters. A head tied to the first table is counted there, and `lm_head` is 0."""

    total: int
    backbone: int
    input_embeddings: int
    lm_head: int


@dataclass(frozen=True, kw_only=True)
class Context:
    """The longest sequence, in tokens and in the positions they own."""

    tokens: int
    positions: int


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """All that `inspect` reports; `missing`, `unexpected` and `misshapen` are None when there are no weights."""

    path: str
    streams: int
    parameters: Parameters
    weight_bytes: int
    kv_bytes_per_token: int
    context: Context
    position_scheme: str
    stream_attention: list[str] | None = field(metadata={"help": "kind of each layer; None: full attention everywhere"})
    missing: list[str] | None
    unexpected: list[str] | None
    misshapen: dict[str, list[list[int]]] | None = field(metadata={"help": "name -> [shape found, shape expected]"})
    dtype: str
    layers: int
    attention_heads: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    vocab_size: int
    tied_embeddings: bool
    rope: dict[str, Any]
    extra_table_bytes: int
    kv_element_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, in the order of the fields."""
        return asdict(self)


def inspect_checkpoint(path: str | Path, *, snapshot: bool = False) -> Inspection:
    """Inspects a checkpoint directory, a directory with only a `config.json`, or a `config.json` itself.

    In a directory, a weight file that its index names must be there; a hub `snapshot` may have been fetched without.
    """
    path = Path(path)
    config = load_config(path)
    found = tensor_index(path) if _has_weights(path, snapshot) else None
    differences = None if found is None else compare_tensors(found, config)
    dtype = torch_dtype("auto", config, found)
    counts = {name: math.prod(shape) for name, shape in expected_tensors(config).items()}
    weights = config_weight_bytes(counts, config, dtype.itemsize)
    if found is not None:
        weights = sum(entry.nbytes for _, entry in found.values())
    return Inspection(
        path=str(path),
        streams=config.num_streams,
        parameters=count_parameters(counts, config),
        weight_bytes=weights,
        kv_bytes_per_token=kv_bytes_per_token(
            config.num_streams, config.num_hidden_layers, _kv_heads(config), config.head_dim, dtype.itemsize
        ),
        context=Context(tokens=config.max_tokens, positions=config.max_position_embeddings),
        position_scheme=position_scheme(config),
        stream_attention=config.stream_attention,
        missing=None if differences is None else differences.missing,
        unexpected=None if differences is None else differences.unexpected,
        misshapen=None if differences is None else _as_lists(differences.misshapen),
        dtype=str(dtype).removeprefix("torch."),
        layers=config.num_hidden_layers,
        attention_heads=config.num_attention_heads,
        kv_heads=_kv_heads(config),
        head_dim=config.head_dim,
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        tied_embeddings=config.tie_word_embeddings,
        rope=dict(config.rope_parameters or {}),
        extra_table_bytes=sum(count for name, count in counts.items() if name.startswith(EXTRA_TABLES))
        * dtype.itemsize,
        kv_element_bytes=dtype.itemsize,
    )


def _has_weights(path: Path, snapshot: bool) -> bool:
    if snapshot:
        return weights_are_here(path)
    return path.is_dir() and (any(path.glob("*.safetensors")) or (path / INDEX_FILE).is_file())


def count_parameters(counts: dict[str, int], config: Qwen3ScaleSeqConfig) -> Parameters:
    """Sorts the sizes of all tensors (name -> elements) into input tables, head and the rest."""
    head = 0 if config.tie_word_embeddings else counts["lm_head.weight"]
    tables = counts["model.embed_tokens.weight"] + sum(
        count for name, count in counts.items() if name.startswith(EXTRA_TABLES)
    )
    total = sum(counts.values()) - (counts["lm_head.weight"] - head)
    return Parameters(total=total, backbone=total - tables - head, input_embeddings=tables, lm_head=head)


def config_weight_bytes(counts: dict[str, int], config: Qwen3ScaleSeqConfig, element_bytes: int) -> int:
    """Bytes the weights take, stored once each in one dtype."""
    return count_parameters(counts, config).total * element_bytes


def position_scheme(config: Qwen3ScaleSeqConfig) -> str:
    """`contiguous` (plain RoPE over all positions, as published), `linear` (scaled), or another RoPE type's name."""
    rope_type = str((config.rope_parameters or {}).get("rope_type", "default"))
    return "contiguous" if rope_type == "default" else rope_type


def _kv_heads(config: Qwen3ScaleSeqConfig) -> int:
    return config.num_key_value_heads or config.num_attention_heads


def _as_lists(shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> dict[str, list[list[int]]]:
    return {name: [list(found), list(expected)] for name, (found, expected) in shapes.items()}
