"""Does it fit: weights and KV cache of a model on a number of GPUs, in bytes, tokens and positions.

Contract: arithmetic on an `Inspection`, no device is touched. Tensor parallelism as engines do it: weights are split
evenly; KV heads are split as far as there are heads, then repeated. What is kept back (1 - utilisation) is for
activations and the engine itself. Importing this module loads no torch: the command line takes its flags from here.

    >>> plan_memory(inspect_checkpoint("path/to/config"), MemoryPlanConfig(gpu_memory=80.0)).tokens
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from hidden_decoding.errors import ConfigError

if TYPE_CHECKING:
    from hidden_decoding.modeling.inspection import Inspection

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class MemoryPlanConfig:
    """The machine a plan is for."""

    gpus: int = field(default=1, metadata={"help": "GPUs that share the model (tensor parallel)"})
    gpu_memory: float | None = field(default=None, metadata={"help": "memory of one GPU", "metavar": "GIB"})
    gpu_memory_utilization: float = field(
        default=0.9, metadata={"help": "share of each GPU for weights and KV cache", "metavar": "SHARE"}
    )

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise ConfigError(f"--gpus is {self.gpus}, but a plan needs at least 1; give --gpus 1 or more")
        if self.gpu_memory is not None and not (math.isfinite(self.gpu_memory) and self.gpu_memory > 0):
            raise ConfigError(f"--gpu-memory is {self.gpu_memory}, but counts GiB; give for example --gpu-memory 80")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ConfigError(
                f"--gpu-memory-utilization is {self.gpu_memory_utilization}, but is a share: above 0 and at most 1"
            )


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Bytes per GPU, and what the KV cache of all GPUs together holds."""

    gpus: int
    gpu_memory_bytes: int
    gpu_memory_utilization: float
    weight_bytes_per_gpu: int
    extra_table_bytes_per_gpu: int
    kv_budget_bytes_per_gpu: int
    kv_bytes_per_token_per_gpu: int
    fits: bool
    tokens: int
    positions: int
    full_contexts: float
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def plan_memory(model: Inspection, machine: MemoryPlanConfig) -> MemoryPlan:
    """The plan; `fits` is False when not one token's KV cache fits beside the weights."""
    from hidden_decoding.streams import tokens_to_positions  # loads torch, which `--help` must not

    if machine.gpu_memory is None:
        raise ConfigError("--plan needs the memory of one GPU; add for example: --gpus 1 --gpu-memory 80 (GiB)")
    if model.attention_heads % machine.gpus:
        raise ConfigError(
            f"{model.attention_heads} attention heads cannot be split over --gpus {machine.gpus}; give a number that "
            f"divides {model.attention_heads}"
        )
    memory = int(machine.gpu_memory * GIB)
    weights = math.ceil(model.weight_bytes / machine.gpus)
    per_token = model.kv_bytes_per_token * math.ceil(model.kv_heads / machine.gpus) // model.kv_heads
    budget = max(0, int(memory * machine.gpu_memory_utilization) - weights)
    tokens = budget // per_token
    return MemoryPlan(
        gpus=machine.gpus,
        gpu_memory_bytes=memory,
        gpu_memory_utilization=machine.gpu_memory_utilization,
        weight_bytes_per_gpu=weights,
        extra_table_bytes_per_gpu=math.ceil(model.extra_table_bytes / machine.gpus),
        kv_budget_bytes_per_gpu=budget,
        kv_bytes_per_token_per_gpu=per_token,
        fits=tokens > 0,
        tokens=tokens,
        positions=tokens_to_positions(tokens, model.streams),
        full_contexts=round(tokens / max(1, model.context.tokens), 2),
        notes=_notes(model, machine, tokens),
    )


def _notes(model: Inspection, machine: MemoryPlanConfig, tokens: int) -> list[str]:
    notes = [
        f"activations, CUDA graphs and the engine use the other {1 - machine.gpu_memory_utilization:.0%} of each GPU"
    ]
    if model.streams > 1:
        notes.append(
            f"the tables of streams 2 to {model.streams} are read row by row: they take memory, but no matrix product "
            "uses them"
        )
    if machine.gpus > model.kv_heads:
        notes.append(f"{model.kv_heads} KV heads on {machine.gpus} GPUs: each KV head is kept on several GPUs")
    if 0 < tokens < model.context.tokens:
        notes.append(f"one sequence of the full context ({model.context.tokens} tokens) does not fit")
    if tokens == 0:
        notes.append("the weights leave no room for the KV cache: take more or larger GPUs")
    return notes
