"""Settings of a training run: five frozen dataclasses, one per component, and the checks that need no weights.

Contract: a value of the wrong kind or an impossible size is a `ConfigError` at construction, before any weight or text
is read. Flags (`cli/train.py`) and the sections of a run file (`recipes/*.yaml`) have exactly these fields. Counts are
in tokens unless the name says otherwise. Loads only the standard library.

    >>> CptConfig.build(model="base", data=("books.jsonl",), out="runs/cpt", steps=100)
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Self

from hidden_decoding.errors import ConfigError


def _typed(name: str, value: Any, annotation: Any) -> Any:
    """`value` as the annotated kind; text that is a number counts as one (YAML reads `1e-3` as text)."""
    members = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if value is None and type(None) in members:
        return None
    kind = next(member for member in members if member is not type(None))
    if typing.get_origin(kind) is tuple:
        items = (value,) if isinstance(value, str) else value
        if isinstance(items, list | tuple) and all(isinstance(item, str) for item in items):
            return tuple(items)
    elif kind is bool or isinstance(value, bool):
        if kind is bool and isinstance(value, bool):
            return value
    elif kind is str:
        if isinstance(value, str):
            return value
    elif isinstance(value, int | float | str):
        try:
            return _number(value, kind)
        except ValueError:
            pass
    wanted = getattr(kind, "__name__", "list of texts") if typing.get_origin(kind) is None else "list of texts"
    raise ConfigError(f"{name} is {value!r}; it must be of kind {wanted}")


def _number(value: float | str, kind: type) -> Any:
    number = float(value)
    if kind is int:
        if number != int(number):
            raise ValueError("not whole")
        return int(value) if isinstance(value, int) else int(number)
    return number


class _Section:
    """Brings each field of a dataclass to its annotated kind, then calls `_check`."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for entry in dataclasses.fields(self):  # type: ignore[arg-type]
            value = _typed(entry.name, getattr(self, entry.name), hints[entry.name])
            object.__setattr__(self, entry.name, value)
            if (choices := entry.metadata.get("choices")) and value not in choices:
                raise ConfigError(f"{entry.name} is {value!r}; it must be one of {', '.join(choices)}")
        for name, (fine, allowed) in self._rules().items():
            if not fine:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be {allowed}")

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return {}


@dataclass(frozen=True, kw_only=True)
class ModelSettings(_Section):
    """What is trained, and how its activations are kept."""

    model: str = field(
        default="", metadata={"help": "checkpoint to start from: a directory or hub id", "metavar": "MODEL"}
    )
    revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of a hub id"})
    attention: str = field(
        default="sdpa",
        metadata={
            "help": "attention of transformers",
            "choices": ("sdpa", "eager", "flash_attention_2", "flex_attention"),
        },
    )
    gradient_checkpointing: bool = field(
        default=False,
        metadata={"help": "recompute activations in the backward pass: less memory, about a third slower"},
    )

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return {"model": (bool(self.model), "a checkpoint directory or hub id (--model)")}


@dataclass(frozen=True, kw_only=True)
class DataSettings(_Section):
    """Which text is read, and how documents become rows of tokens."""

    data: tuple[str, ...] = field(
        default=(), metadata={"help": "text files, JSONL files, or directories of them to train on", "metavar": "PATH"}
    )
    heldout: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "held-out text for evaluation; without it documents of --data are set aside",
            "metavar": "PATH",
        },
    )
    heldout_fraction: float = field(
        default=0.01, metadata={"help": "share of --data's tokens set aside, by whole documents; 0 evaluates nothing"}
    )
    text_key: str = field(default="text", metadata={"help": "key of the text in JSONL lines"})
    tokens_per_sequence: int = field(
        default=2048, metadata={"help": "tokens in a packed row; the model reads n times as many positions"}
    )
    cache_dir: str | None = field(
        default=None,
        metadata={"help": "where tokenised text is kept between runs; by default inside --out", "metavar": "DIR"},
    )
    data_seed: int = field(default=0, metadata={"help": "order of documents, and which ones are held out"})

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return {
            "data": (bool(self.data), "at least one file or directory (--data)"),
            "heldout_fraction": (0 <= self.heldout_fraction < 1, "from 0 to below 1"),
            "tokens_per_sequence": (self.tokens_per_sequence >= 2, "a whole number of tokens from 2"),
            "data_seed": (self.data_seed >= 0, "a whole number from 0"),
        }


@dataclass(frozen=True, kw_only=True)
class OptimiserSettings(_Section):
    """AdamW. Norm weights are not decayed."""

    learning_rate: float = field(default=2e-5, metadata={"help": "peak learning rate"})
    beta1: float = field(default=0.9, metadata={"help": "decay of the mean gradient"})
    beta2: float = field(default=0.95, metadata={"help": "decay of the mean squared gradient"})
    epsilon: float = field(default=1e-8, metadata={"help": "added to the denominator"})
    weight_decay: float = field(default=0.1, metadata={"help": "decoupled decay of matrices and embedding tables"})
    clip_norm: float = field(default=1.0, metadata={"help": "largest norm of the whole gradient; 0 does not clip"})

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return {
            "learning_rate": (0 < self.learning_rate < 1, "above 0 and below 1"),
            "beta1": (0 <= self.beta1 < 1, "from 0 to below 1"),
            "beta2": (0 <= self.beta2 < 1, "from 0 to below 1"),
            "epsilon": (self.epsilon > 0, "above 0"),
            "weight_decay": (0 <= self.weight_decay < 10, "from 0 to 10"),
            "clip_norm": (self.clip_norm >= 0, "0 or more"),
        }


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings(_Section):
    """Linear warm-up, then half a cosine down to `final_fraction` of the peak."""

    steps: int = field(default=1000, metadata={"help": "optimiser steps of the whole run"})
    warmup_steps: int = field(default=0, metadata={"help": "steps from 0 to the peak learning rate"})
    final_fraction: float = field(default=0.0, metadata={"help": "learning rate at the end, as a share of the peak"})
    zero_jump_steps: int = field(
        default=0,
        metadata={
            "help": "steps over which attention between streams opens, from the base's own loss; 0: open at once"
        },
    )

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return {
            "steps": (self.steps >= 1, "a whole number from 1"),
            "warmup_steps": (0 <= self.warmup_steps < self.steps, f"from 0 to below the {self.steps} steps of the run"),
            "zero_jump_steps": (
                0 <= self.zero_jump_steps <= self.steps,
                f"from 0 to the {self.steps} steps of the run",
            ),
            "final_fraction": (0 <= self.final_fraction <= 1, "from 0 to 1"),
        }


@dataclass(frozen=True, kw_only=True)
class RunSettings(_Section):
    """Where and how it runs: batch, precision, evaluation, checkpoints."""

    out: str = field(
        default="", metadata={"help": "directory of this run: metrics, checkpoints, final model", "metavar": "DIR"}
    )
    sequences_per_step: int = field(default=8, metadata={"help": "packed rows per optimiser step, over all processes"})
    sequences_per_pass: int | None = field(
        default=None,
        metadata={"help": "packed rows per forward pass and process; fewer than a step's share accumulates gradients"},
    )
    device: str = field(default="auto", metadata={"help": "where to compute", "choices": ("auto", "cpu", "cuda")})
    precision: str = field(
        default="fp32", metadata={"help": "bf16 computes in bfloat16 over float32 weights", "choices": ("fp32", "bf16")}
    )
    loss_chunk_tokens: int = field(
        default=2048, metadata={"help": "tokens whose logits exist at a time; bounds memory, changes no result"}
    )
    evaluate_every: int = field(
        default=100, metadata={"help": "steps between evaluations; first and last always; 0 never"}
    )
    evaluate_tokens: int = field(default=200_000, metadata={"help": "most held-out tokens read per evaluation"})
    checkpoint_every: int = field(
        default=0, metadata={"help": "steps between checkpoints to resume from; 0 only on stopping"}
    )
    keep_checkpoints: int = field(default=2, metadata={"help": "newest checkpoints kept"})
    resume: bool = field(default=False, metadata={"help": "go on from the newest complete checkpoint in --out, if any"})
    export_dtype: str = field(
        default="source",
        metadata={
            "help": "dtype of the final weights; source is the start's",
            "choices": ("source", "float32", "bfloat16"),
        },
    )
    stop_at_step: int | None = field(
        default=None, metadata={"help": "write a checkpoint after this step and stop; the schedule still spans --steps"}
    )
    seed: int = field(default=0, metadata={"help": "seed of everything random but the data order"})

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return {
            "out": (bool(self.out), "a directory for the run (--out)"),
            "sequences_per_step": (self.sequences_per_step >= 1, "a whole number from 1"),
            "sequences_per_pass": (self.sequences_per_pass is None or self.sequences_per_pass >= 1, "from 1"),
            "loss_chunk_tokens": (self.loss_chunk_tokens >= 1, "a whole number from 1"),
            "evaluate_every": (self.evaluate_every >= 0, "0 or more"),
            "evaluate_tokens": (self.evaluate_tokens >= 1, "a whole number from 1"),
            "checkpoint_every": (self.checkpoint_every >= 0, "0 or more"),
            "keep_checkpoints": (self.keep_checkpoints >= 1, "a whole number from 1"),
            "stop_at_step": (self.stop_at_step is None or self.stop_at_step >= 1, "a whole number from 1"),
            "seed": (self.seed >= 0, "a whole number from 0"),
        }


SECTIONS: dict[str, type[Any]] = {
    "model": ModelSettings,
    "data": DataSettings,
    "optimiser": OptimiserSettings,
    "schedule": ScheduleSettings,
    "run": RunSettings,
}


@dataclass(frozen=True, kw_only=True)
class CptConfig:
    """A whole run of continued pretraining."""

    model: ModelSettings
    data: DataSettings
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    run: RunSettings

    def __post_init__(self) -> None:
        stop, steps = self.run.stop_at_step, self.schedule.steps
        if stop is not None and stop > steps:
            raise ConfigError(f"stop_at_step is {stop}, but the run has only {steps} steps (--steps)")

    @classmethod
    def build(cls, **values: Any) -> Self:
        """From flat field names: each goes to the section that has it."""
        sections = {}
        for name, section in SECTIONS.items():
            known = [entry.name for entry in dataclasses.fields(section)]
            sections[name] = section(**{key: values.pop(key) for key in known if key in values})
        if values:
            raise ConfigError(f"unknown setting {next(iter(values))!r} of a training run")
        return cls(**sections)

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Plain data, section by section, as a run file holds it."""
        return {name: dataclasses.asdict(getattr(self, name)) for name in SECTIONS}
