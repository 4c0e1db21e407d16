"""Settings of supervised fine-tuning: frozen dataclasses, one per component, and the checks that need no weights.

Contract: as `config.py`, whose fields these share where they mean the same; flags (`cli/train_sft.py`) and the sections
of a run file have exactly these fields. Counts are in tokens unless the name says otherwise. Loads only the standard
library.

    >>> SftConfig.build(model="base-n2", data=("chats.jsonl",), out="runs/sft", epochs=2)
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Self

from hidden_decoding.errors import ConfigError
from hidden_decoding.train.config import ModelSettings, OptimiserSettings, RunSettings, ScheduleSettings
from hidden_decoding.train.sections import Section


def _as_in(section: type[Any], name: str, **changes: Any) -> Any:
    """The field `name` of another section: same default, same help, but for `changes`."""
    found = section.__dataclass_fields__[name]
    default = changes.pop("default", found.default)
    return field(default=default, metadata={**found.metadata, **changes})


@dataclass(frozen=True, kw_only=True)
class SftModelSettings(Section):
    """What is trained, what it is compared with, and whether by adapters."""

    model: str = _as_in(ModelSettings, "model")
    revision: str | None = _as_in(ModelSettings, "revision")
    attention: str = _as_in(ModelSettings, "attention")
    gradient_checkpointing: bool = _as_in(ModelSettings, "gradient_checkpointing")
    control: str | None = field(
        default=None,
        metadata={
            "help": "an n = 1 checkpoint that is then trained in the same way on the same samples, to compare",
            "metavar": "MODEL",
        },
    )
    lora_rank: int = field(default=0, metadata={"least": 0, "help": "rank of LoRA adapters; 0 trains all weights"})
    lora_alpha: int = field(default=32, metadata={"least": 1, "help": "adapters are scaled by alpha / rank"})
    lora_dropout: float = field(default=0.0, metadata={"help": "dropout in front of the adapters"})

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return {
            "lora_dropout": (0 <= self.lora_dropout < 1, "from 0 to below 1"),
        }


@dataclass(frozen=True, kw_only=True)
class ChatSettings(Section):
    """Which chats are read, and how they become rows of tokens."""

    data: tuple[str, ...] = field(
        default=(),
        metadata={
            "needed": "at least one file or directory (--data)",
            "help": "chats as JSONL, JSON or Parquet: messages, or ShareGPT's conversations",
            "metavar": "PATH",
        },
    )
    heldout: tuple[str, ...] = field(
        default=(),
        metadata={"help": "held-out chats for evaluation; without it some of --data are set aside", "metavar": "PATH"},
    )
    heldout_fraction: float = field(
        default=0.02, metadata={"help": "share of --data's conversations set aside; 0 evaluates nothing"}
    )
    turns: str = field(
        default="all",
        metadata={
            "help": "all: a conversation is one sample, all its assistant turns carry loss; each: one sample per "
            "assistant turn, rendered as at inference (what templates that drop earlier reasoning need)",
            "choices": ("all", "each"),
        },
    )
    on_broken: str = field(
        default="stop",
        metadata={
            "help": "a conversation that cannot be used: name it and stop, or skip it",
            "choices": ("stop", "skip"),
        },
    )
    on_too_long: str = field(
        default="skip",
        metadata={
            "help": "a sample of more than --tokens-per-sequence: leave it out (counted; never cut), or stop",
            "choices": ("skip", "stop"),
        },
    )
    tokens_per_sequence: int = field(
        default=2048, metadata={"least": 2, "help": "tokens in a packed row, and the most of one sample"}
    )
    packing: bool = field(default=True, metadata={"help": "several samples in a row, none of which sees another"})
    data_seed: int = field(default=0, metadata={"least": 0, "help": "order of samples, and which are held out"})

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return {
            "heldout_fraction": (0 <= self.heldout_fraction < 1, "from 0 to below 1"),
        }


@dataclass(frozen=True, kw_only=True)
class SftScheduleSettings(Section):
    """How long, and the learning rate on the way."""

    epochs: float = field(default=1.0, metadata={"help": "passes over the chats"})
    steps: int | None = field(
        default=None, metadata={"least": 1, "help": "optimiser steps of the whole run, instead of --epochs"}
    )
    warmup_steps: int = _as_in(ScheduleSettings, "warmup_steps", least=0)
    schedule: str = _as_in(ScheduleSettings, "schedule")
    decay_steps: int | None = _as_in(ScheduleSettings, "decay_steps")
    final_fraction: float = _as_in(ScheduleSettings, "final_fraction")

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return {
            "epochs": (0 < self.epochs < 10_000, "above 0"),
        }

    def of(self, steps: int) -> ScheduleSettings:
        """The learning rate's course over a run of so many steps; warm-up longer than the run is refused."""
        return ScheduleSettings(
            steps=steps,
            warmup_steps=self.warmup_steps,
            schedule=self.schedule,
            decay_steps=self.decay_steps,
            final_fraction=self.final_fraction,
        )


@dataclass(frozen=True, kw_only=True)
class SftRunSettings(Section):
    """Where and how it runs: batch, precision, evaluation, checkpoints."""

    out: str = _as_in(RunSettings, "out")
    sequences_per_step: int = _as_in(RunSettings, "sequences_per_step")
    sequences_per_pass: int = field(
        default=1,
        metadata={
            "least": 1,
            "help": "packed rows per forward pass and process, laid end to end; above 1 pays with flash_attention_2",
        },
    )
    shard: bool = field(
        default=False,
        metadata={
            "help": "several GPUs share weights, gradients and optimiser (FSDP2) instead of a copy of all in each"
        },
    )
    device: str = _as_in(RunSettings, "device")
    precision: str = _as_in(RunSettings, "precision", help="bf16 computes in bfloat16 over float32 weights")
    evaluate_every: int = _as_in(RunSettings, "evaluate_every")
    checkpoint_every: int = _as_in(RunSettings, "checkpoint_every")
    keep_checkpoints: int = _as_in(RunSettings, "keep_checkpoints", least=2)  # one is complete while another is written
    resume: bool = _as_in(RunSettings, "resume")
    export_dtype: str = _as_in(RunSettings, "export_dtype")
    stop_at_step: int | None = field(
        default=None,
        metadata={"least": 1, "help": "write a checkpoint after this step and stop; the schedule spans the whole run"},
    )
    track: str = _as_in(RunSettings, "track")
    peak_tflops: float | None = _as_in(RunSettings, "peak_tflops")
    on_nonfinite: str = _as_in(RunSettings, "on_nonfinite")
    seed: int = _as_in(RunSettings, "seed")


SECTIONS: dict[str, type[Any]] = {
    "model": SftModelSettings,
    "data": ChatSettings,
    "optimiser": OptimiserSettings,
    "schedule": SftScheduleSettings,
    "run": SftRunSettings,
}


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """A whole run of supervised fine-tuning."""

    model: SftModelSettings
    data: ChatSettings
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    schedule: SftScheduleSettings = field(default_factory=SftScheduleSettings)
    run: SftRunSettings

    def __post_init__(self) -> None:
        stop, steps = self.run.stop_at_step, self.schedule.steps
        if stop is not None and steps is not None and stop > steps:
            raise ConfigError(f"stop_at_step is {stop}, but the run has only {steps} steps (--steps)")
        if stop is not None and self.model.control:
            raise ConfigError("--stop-at-step and --control exclude each other: the control follows a finished run")

    @classmethod
    def build(cls, **values: Any) -> Self:
        """From flat field names: each goes to the section that has it."""
        sections = {}
        for name, section in SECTIONS.items():
            known = [entry.name for entry in dataclasses.fields(section)]
            sections[name] = section(**{key: values.pop(key) for key in known if key in values})
        if values:
            raise ConfigError(f"unknown setting {next(iter(values))!r} of a fine-tuning run")
        return cls(**sections)

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Plain data, section by section, as a run file holds it."""
        return {name: dataclasses.asdict(getattr(self, name)) for name in SECTIONS}
