"""Settings of a training run: five frozen dataclasses, one per component, and the checks that need no weights.

Contract: a value of the wrong kind or an impossible size is a `ConfigError` at construction, before any weight or text
is read. Flags (`cli/train.py`) and the sections of a run file (`recipes/*.yaml`) have exactly these fields. Counts are
in tokens unless the name says otherwise. Loads only the standard library.

    >>> CptConfig.build(model="base", data=("books.jsonl",), out="runs/cpt", steps=100)
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Self

from hidden_decoding.errors import ConfigError
from hidden_decoding.train.data_settings import DataSettings
from hidden_decoding.train.sections import Section

SCHEMES = ("linear", "contiguous")
TRACKERS = ("tensorboard", "wandb", "trackio", "none")


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Section):
    """What is trained, and how its activations are kept."""

    model: str = field(
        default="",
        metadata={
            "needed": "a checkpoint directory or hub id (--model)",
            "help": "checkpoint to start from: a directory or hub id",
            "metavar": "MODEL",
        },
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
    compile: bool = field(
        default=False, metadata={"help": "torch.compile of each decoder layer: slow start, then fast"}
    )
    streams: int | None = field(
        default=None,
        metadata={"help": "first give the model this many streams, as upcycle does; by default it keeps its own"},
    )
    positions: str | None = field(
        default=None,
        metadata={"help": "position scheme when streams are added; by default as upcycle", "choices": SCHEMES},
    )
    noise: float = field(
        default=0.0, metadata={"help": "noise on tables that are added, relative to the copied table's deviation"}
    )

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return {
            "streams": (self.streams is None or self.streams >= 1, "a whole number from 1, like 2, 4 or 8"),
            "positions": (self.positions is None or self.streams is not None, "left out unless streams is given"),
            "noise": (0 <= self.noise < math.inf, "0 or a positive number, like 0.1"),
        }


@dataclass(frozen=True, kw_only=True)
class OptimiserSettings(Section):
    """AdamW, or Muon for the backbone's matrices with AdamW for the rest. Norm weights are not decayed.

    A group is the tables that hidden decoding adds, the lm_head, or the backbone: all else, the base's table included.
    """

    optimiser: str = field(
        default="adamw",
        metadata={
            "help": "muon takes the matrices of the decoder layers, adamw the rest",
            "choices": ("adamw", "muon"),
        },
    )
    muon_momentum: float = field(default=0.95, metadata={"help": "momentum of Muon"})
    tables_rate: float = field(
        default=1.0, metadata={"help": "learning rate of the new tables, as a multiple; 0 freezes them"}
    )
    backbone_rate: float = field(
        default=1.0, metadata={"help": "learning rate of the backbone, as a multiple; 0 freezes it"}
    )
    head_rate: float = field(
        default=1.0, metadata={"help": "learning rate of an untied lm_head, as a multiple; 0 freezes it"}
    )
    tables_weight_decay: float | None = field(
        default=None,
        metadata={"least": 0, "most": 10, "help": "weight decay of the new tables; by default --weight-decay"},
    )
    head_weight_decay: float | None = field(
        default=None,
        metadata={"least": 0, "most": 10, "help": "weight decay of an untied lm_head; by default --weight-decay"},
    )
    learning_rate: float = field(default=2e-5, metadata={"help": "peak learning rate"})
    beta1: float = field(default=0.9, metadata={"help": "decay of the mean gradient"})
    beta2: float = field(default=0.95, metadata={"help": "decay of the mean squared gradient"})
    epsilon: float = field(default=1e-8, metadata={"above": 0, "help": "added to the denominator"})
    weight_decay: float = field(
        default=0.1, metadata={"least": 0, "most": 10, "help": "decoupled decay of matrices and embedding tables"}
    )
    clip_norm: float = field(
        default=1.0, metadata={"least": 0, "help": "largest norm of the whole gradient; 0 does not clip"}
    )

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return {
            "learning_rate": (0 < self.learning_rate < 1, "above 0 and below 1"),
            "muon_momentum": (0 <= self.muon_momentum < 1, "from 0 to below 1"),
            **{
                name: (0 <= getattr(self, name) < math.inf, "0 or more")
                for name in ("tables_rate", "backbone_rate", "head_rate")
            },
            "beta1": (0 <= self.beta1 < 1, "from 0 to below 1"),
            "beta2": (0 <= self.beta2 < 1, "from 0 to below 1"),
        }


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings(Section):
    """Linear warm-up, then down to `final_fraction` of the peak: along half a cosine, or (wsd) flat, then a line."""

    schedule: str = field(
        default="cosine",
        metadata={"help": "wsd holds the peak until --decay-steps are left", "choices": ("cosine", "wsd")},
    )
    decay_steps: int | None = field(
        default=None, metadata={"help": "last steps of wsd, in which the rate falls; by default a fifth of --steps"}
    )
    steps: int = field(default=1000, metadata={"least": 1, "help": "optimiser steps of the whole run"})
    warmup_steps: int = field(default=0, metadata={"help": "steps from 0 to the peak learning rate"})
    final_fraction: float = field(
        default=0.0, metadata={"least": 0, "most": 1, "help": "learning rate at the end, as a share of the peak"}
    )
    zero_jump_steps: int = field(
        default=0,
        metadata={
            "help": "steps over which attention between streams opens, from the base's own loss; 0: open at once"
        },
    )

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return {
            "warmup_steps": (0 <= self.warmup_steps < self.steps, f"from 0 to below the {self.steps} steps of the run"),
            "decay_steps": (
                self.decay_steps is None
                or (self.schedule == "wsd" and 1 <= self.decay_steps <= self.steps - self.warmup_steps),
                f"from 1 to the {self.steps - self.warmup_steps} steps after warm-up, and only with --schedule wsd",
            ),
            "zero_jump_steps": (
                0 <= self.zero_jump_steps <= self.steps,
                f"from 0 to the {self.steps} steps of the run",
            ),
        }


@dataclass(frozen=True, kw_only=True)
class RunSettings(Section):
    """Where and how it runs: batch, precision, evaluation, checkpoints."""

    out: str = field(
        default="",
        metadata={
            "needed": "a directory for the run (--out)",
            "help": "directory of this run: metrics, checkpoints, final model",
            "metavar": "DIR",
        },
    )
    sequences_per_step: int = field(
        default=8, metadata={"least": 1, "help": "packed rows per optimiser step, over all processes"}
    )
    sequences_per_pass: int | None = field(
        default=None,
        metadata={
            "least": 1,
            "help": "packed rows per forward pass and process; fewer than a step's share accumulates gradients",
        },
    )
    device: str = field(default="auto", metadata={"help": "where to compute", "choices": ("auto", "cpu", "cuda")})
    precision: str = field(
        default="fp32", metadata={"help": "bf16 computes in bfloat16 over float32 weights", "choices": ("fp32", "bf16")}
    )
    loss_chunk_tokens: int = field(
        default=2048,
        metadata={"least": 1, "help": "tokens whose logits exist at a time; bounds memory, changes no result"},
    )
    evaluate_every: int = field(
        default=100, metadata={"least": 0, "help": "steps between evaluations; first and last always; 0 never"}
    )
    evaluate_tokens: int = field(
        default=200_000, metadata={"least": 1, "help": "most held-out tokens read per evaluation"}
    )
    checkpoint_every: int = field(
        default=0, metadata={"least": 0, "help": "steps between checkpoints to resume from; 0 only on stopping"}
    )
    keep_checkpoints: int = field(default=2, metadata={"least": 1, "help": "newest checkpoints kept"})
    resume: bool = field(default=False, metadata={"help": "go on from the newest complete checkpoint in --out, if any"})
    export_dtype: str = field(
        default="source",
        metadata={
            "help": "dtype of the final weights; source is the start's",
            "choices": ("source", "float32", "bfloat16"),
        },
    )
    stop_at_step: int | None = field(
        default=None,
        metadata={"least": 1, "help": "write a checkpoint after this step and stop; the schedule still spans --steps"},
    )
    track: str = field(
        default="tensorboard",
        metadata={"help": "where curves are shown, beside metrics.jsonl", "choices": TRACKERS},
    )
    peak_tflops: float | None = field(
        default=None, metadata={"above": 0, "help": "peak of one device in TFLOP/s, for MFU; known GPUs need none"}
    )
    on_nonfinite: str = field(
        default="stop",
        metadata={
            "help": "a step whose loss or gradient is NaN or infinite: stop, or skip it",
            "choices": ("stop", "skip"),
        },
    )
    seed: int = field(default=0, metadata={"least": 0, "help": "seed of everything random but the data order"})


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
