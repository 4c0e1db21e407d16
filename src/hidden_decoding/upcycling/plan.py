"""Decides what an upcycled checkpoint is, before anything is written: its configuration, and where each tensor is from.

Contract: `plan_upcycling` holds the base against its configuration (strictly), refuses what cannot work, and returns a
plan that `writing.py` carries out. Reads headers only, no weights.

    >>> plan = plan_upcycling("path/to/base", UpcycleConfig(streams=4))
    >>> plan.config.max_tokens
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hidden_decoding.errors import ConfigError
from hidden_decoding.modeling.checkpoint import TensorIndex, verify_checkpoint
from hidden_decoding.modeling.config_file import config_from_dict, load_config, published_config_dict
from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig
from hidden_decoding.modeling.hub import resolve_model
from hidden_decoding.modeling.model import EXTRA_TABLES
from hidden_decoding.streams import (
    grown_streams,
    replicated_stream,
    scale_seq_times_of,
    stream_growth,
    upcycled_context_positions,
    upcycled_rope_factor,
)
from hidden_decoding.upcycling.config import CONTIGUOUS, LINEAR, UpcycleConfig
from hidden_decoding.upcycling.noise import check_dtype

if TYPE_CHECKING:
    from pathlib import Path

    from hidden_decoding.modeling.safetensors_file import TensorEntry

FIRST_TABLE = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a tensor's bytes are; `noisy_stream` (0-based) is set when noise for that stream goes on top."""

    path: Path
    entry: TensorEntry
    noisy_stream: int | None = None


@dataclass(frozen=True, kw_only=True)
class UpcyclePlan:
    """Everything that is known before the first byte is written. `config` is the result's configuration."""

    base: str
    revision: str | None
    directory: Path
    settings: UpcycleConfig
    scheme: str
    base_config: Qwen3ScaleSeqConfig
    config: Qwen3ScaleSeqConfig
    tensors: dict[str, Origin]

    @property
    def total_bytes(self) -> int:
        """Bytes of all weights of the result."""
        return sum(origin.entry.nbytes for origin in self.tensors.values())

    @property
    def tables_copied(self) -> int:
        """How many embedding tables the result has more than the base."""
        return self.config.num_streams - self.base_config.num_streams


def plan_upcycling(base: str | Path, settings: UpcycleConfig, *, revision: str | None = None) -> UpcyclePlan:
    """Checks base and settings and decides; raises `ConfigError` or `CheckpointError`."""
    directory = resolve_model(base, revision)
    base_config = load_config(directory)
    scheme = settings.positions or base_scheme(base_config)
    config = grown_config(base_config, settings, where=f"{directory} upcycled")
    found = verify_checkpoint(directory, base_config)
    return UpcyclePlan(
        base=str(base),
        revision=revision,
        directory=directory,
        settings=settings,
        scheme=scheme,
        base_config=base_config,
        config=config,
        tensors=_tensors(found, base_config, settings),
    )


def table_name(stream: int) -> str:
    """Name of the table of a stream (0-based) in the published format."""
    return FIRST_TABLE if stream == 0 else f"{EXTRA_TABLES}.{stream - 1}.weight"


def base_scheme(config: Qwen3ScaleSeqConfig) -> str:
    """The scheme a base keeps unless told: its own when it has streams, else linear."""
    if config.num_streams == 1:
        return LINEAR
    return LINEAR if _rope(config)["rope_type"] == "linear" else CONTIGUOUS


def _growth(base_streams: int, streams: int) -> int:
    try:
        growth = stream_growth(base_streams, streams)
    except ValueError:
        growth = 0
    if growth < 2:
        problem = "has that many already" if growth == 1 else f"has {base_streams}"
        examples = ", ".join(str(grown_streams(base_streams, factor)) for factor in (2, 4, 8))
        raise ConfigError(
            f"--streams is {streams}, but the base {problem}: tables are copied whole, so n must be a multiple "
            f"of {base_streams} above it, like {examples}"
        )
    return growth


def grown_config(base: Qwen3ScaleSeqConfig, settings: UpcycleConfig, *, where: str) -> Qwen3ScaleSeqConfig:
    """The result's configuration: the base's fields, unknown ones included, with those that change."""
    growth = _growth(base.num_streams, settings.streams)
    scheme = settings.positions or base_scheme(base)
    fields = published_config_dict(base)
    fields.update(
        scale_seq_times=scale_seq_times_of(settings.streams),
        tie_word_embeddings=False,
        max_position_embeddings=upcycled_context_positions(base.max_position_embeddings, growth, scheme),
        rope_parameters=_grown_rope(_rope(base), growth, scheme, where),
        model_type=Qwen3ScaleSeqConfig.model_type,
    )
    if (kinds := settings.layer_kinds(base.num_hidden_layers)) is not None:
        fields["stream_attention"] = kinds
    return config_from_dict(fields, where=where)


def _rope(config: Qwen3ScaleSeqConfig) -> dict[str, Any]:
    return dict(config.rope_parameters or {})


def _grown_rope(rope: dict[str, Any], growth: int, scheme: str, where: str) -> dict[str, Any]:
    """RoPE parameters of the result. Linear scaling by the growth puts token t, stream k at t + k / growth."""
    if scheme == CONTIGUOUS:
        return rope
    if rope["rope_type"] not in ("default", "linear"):
        raise ConfigError(
            f"{where}: linear positions need a base whose rope_type is default or linear, and this one's is "
            f"{rope['rope_type']!r}; keep its positions with --positions contiguous (the context then holds fewer "
            "tokens)"
        )
    return {**rope, "rope_type": "linear", "factor": upcycled_rope_factor(rope.get("factor", 1.0), growth)}


def _tensors(index: TensorIndex, base: Qwen3ScaleSeqConfig, settings: UpcycleConfig) -> dict[str, Origin]:
    """Tensor name of the result -> its origin: tables in the order of streams, then the rest as it lies in the base."""
    found = {name: Origin(path=path, entry=entry) for name, (path, entry) in index.items()}
    tensors = {table_name(s): _table(found, s, base.num_streams, settings.noise) for s in range(settings.streams)}
    if base.tie_word_embeddings:
        found[HEAD] = found[FIRST_TABLE]  # whatever the file holds under that name, a tied model reads the table
    return {**tensors, **{name: origin for name, origin in found.items() if name not in tensors}}


def _table(found: dict[str, Origin], stream: int, base_streams: int, noise: float) -> Origin:
    copied = table_name(replicated_stream(stream, base_streams))
    origin = found[copied]
    if stream < base_streams or noise == 0:
        return origin
    check_dtype(copied, origin.entry)
    return Origin(path=origin.path, entry=origin.entry, noisy_stream=stream)
