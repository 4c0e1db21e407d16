"""What a training run needs: memory of a GPU, operations, hours, cost; stage by stage, from config.json alone.

Contract: nothing is trained and no weight is read. Parameters are counted on the model built without memory,
activations on its own code (`activation_memory.py`), operations as `modeling.flops` counts them: a floor, of which a
GPU reaches the share `mfu`. Memory is the peak of a step of `train cpt`: float32 weights, gradients and optimiser, over
several GPUs sharded by FSDP2 as `parallelize.py` does it (tables and head form one group, whole while it is used).
`train sft` is planned so where it is told to `shard`, else as data parallel: every GPU holds all of it.

Place in the flow: after `config.py` and `stages.py`; `cli/train_plan.py` prints it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hidden_decoding.errors import CheckpointError, ConfigError
from hidden_decoding.modeling.checkpoint import expected_tensors, load_config, resolve_model
from hidden_decoding.modeling.config_file import CONFIG_FILE, config_from_dict
from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig
from hidden_decoding.modeling.flops import forward_flops_per_token, training_flops
from hidden_decoding.streams import tokens_to_positions
from hidden_decoding.train.activation_memory import Activations, activations
from hidden_decoding.train.config import CptConfig
from hidden_decoding.train.known_models import known_config
from hidden_decoding.train.optimiser import group_of
from hidden_decoding.train.plan_settings import PlanSettings
from hidden_decoding.train.sft_config import SftConfig
from hidden_decoding.train.sft_setup import LORA_TARGETS
from hidden_decoding.upcycling.config import UpcycleConfig
from hidden_decoding.upcycling.plan import grown_config

GIB = 2**30
FP32, BF16 = 4, 2


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """Bytes on one GPU at the peak of a step. `working` is what FSDP2 gathers and reduces for a while."""

    weights: int
    optimiser: int
    gradients: int
    activations: int
    working: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.optimiser + self.gradients + self.activations + self.working


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage. Counts are in tokens unless they say positions; seconds, hours and cost are of all GPUs together."""

    streams: int
    parameters: int
    trained_parameters: int
    steps: int
    tokens_per_step: int
    tokens: int
    positions: int
    flops_per_token: float
    tokens_per_second: float
    positions_per_second: float
    hours: float
    gpu_hours: float
    cost: float | None
    memory: MemoryNeed
    fits: bool

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "memory": {**asdict(self.memory), "total": self.memory.total}}


def plan_run(stages: list[CptConfig] | list[SftConfig], machine: PlanSettings) -> list[StagePlan]:
    """The plan of each stage; the first names the model, later ones continue it."""
    config = planned_config(stages[0].model.model, stages[0].model.revision)
    plans = []
    for stage in stages:
        if isinstance(stage, CptConfig):
            config = _with_streams(config, stage)
        plans.append(_plan_stage(config, stage, machine))
    return plans


def planned_config(model: str, revision: str | None = None) -> Qwen3ScaleSeqConfig:
    """The configuration behind a directory, a config.json, a known base's name, or a hub id."""
    path = Path(model).expanduser()
    if path.is_file():
        return load_config(path.parent)
    if (path / CONFIG_FILE).is_file():
        return load_config(path)
    if (known := known_config(model)) is not None:
        return config_from_dict(known, where=f"{model} (as known here)")
    try:
        return load_config(resolve_model(model, revision, weights=False))
    except CheckpointError as error:
        raise CheckpointError(f"{error}; or give a config.json with --model") from error


def _with_streams(config: Qwen3ScaleSeqConfig, stage: CptConfig) -> Qwen3ScaleSeqConfig:
    wanted = stage.model.streams
    if wanted is None or wanted == config.num_streams:
        return config
    return grown_config(config, UpcycleConfig(streams=wanted, positions=stage.model.positions), where="the plan")


def _plan_stage(config: Qwen3ScaleSeqConfig, stage: CptConfig | SftConfig, machine: PlanSettings) -> StagePlan:
    width, rows, steps = stage.data.tokens_per_sequence, stage.run.sequences_per_step, stage.schedule.steps
    if steps is None:
        raise ConfigError(
            "a plan needs the number of steps: how many rows the chats make is not known; give schedule.steps"
        )
    if rows % machine.gpus:
        raise ConfigError(
            f"sequences_per_step is {rows}, which {machine.gpus} GPUs cannot share evenly; make it a multiple of them"
        )
    if width > config.max_tokens:
        raise ConfigError(
            f"tokens_per_sequence is {width}, but at n = {config.num_streams} the model's "
            f"{config.max_position_embeddings} positions hold {config.max_tokens} tokens"
        )
    sizes = Sizes.of(config, stage)
    forward, lora = forward_flops_per_token(config, width), getattr(stage.model, "lora_rank", 0) > 0
    flops = training_flops(forward, tokens=1, learned_tokens=1, adapters=lora)  # at most: chats learn fewer tokens
    per_second = machine.gpus * machine.peak_tflops * 1e12 * machine.mfu / flops
    tokens = steps * rows * width
    hours = tokens / per_second / 3600
    memory = memory_need(config, stage, sizes, machine.gpus)
    price = machine.price_per_gpu_hour
    return StagePlan(
        streams=config.num_streams,
        parameters=sizes.total,
        trained_parameters=sizes.trained,
        steps=steps,
        tokens_per_step=rows * width,
        tokens=tokens,
        positions=tokens_to_positions(tokens, config.num_streams),
        flops_per_token=flops,
        tokens_per_second=per_second,
        positions_per_second=tokens_to_positions(1, config.num_streams) * per_second,
        hours=hours,
        gpu_hours=hours * machine.gpus,
        cost=None if price is None else price * hours * machine.gpus,
        memory=memory,
        fits=memory.total <= (machine.gpu_memory - machine.gpu_overhead) * GIB,
    )


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers of parameters: all, trained, in one decoder layer, outside the layers, in the head; optimiser bytes."""

    total: int
    trained: int
    layer: int
    outside: int
    head: int
    optimiser_bytes: int

    @classmethod
    def of(cls, config: Qwen3ScaleSeqConfig, stage: CptConfig | SftConfig) -> Sizes:
        """Counted on the model itself, built without memory."""
        shapes = expected_tensors(config)
        if config.tie_word_embeddings:
            shapes.pop("lm_head.weight", None)
        counts = {name: math.prod(shape) for name, shape in shapes.items()}
        total, head = sum(counts.values()), counts.get("lm_head.weight", 0)
        layer = sum(count for name, count in counts.items() if name.startswith("model.layers.0."))
        outside = sum(count for name, count in counts.items() if ".layers." not in name)
        rank = getattr(stage.model, "lora_rank", 0)
        if rank:
            targets = [s for name, s in shapes.items() if name.split(".")[-2] in LORA_TARGETS]
            adapters = sum(rank * sum(shape) for shape in targets)
            return cls(
                total=total + adapters,
                trained=adapters,
                layer=layer,
                outside=outside,
                head=head,
                optimiser_bytes=2 * FP32 * adapters,
            )
        rates = {group: getattr(stage.optimiser, f"{group}_rate") for group in ("tables", "backbone", "head")}
        trained = {name: count for name, count in counts.items() if rates[group_of(name)] > 0}
        muon = stage.optimiser.optimiser == "muon"
        states = {  # Muon keeps one momentum of a matrix, AdamW two averages
            name: count if muon and ".layers." in name and len(shapes[name]) == 2 else 2 * count
            for name, count in trained.items()
        }
        return cls(
            total=total,
            trained=sum(trained.values()),
            layer=layer,
            outside=outside,
            head=head,
            optimiser_bytes=FP32 * sum(states.values()),
        )


def memory_need(config: Qwen3ScaleSeqConfig, stage: CptConfig | SftConfig, sizes: Sizes, gpus: int) -> MemoryNeed:
    """The peak of one step on one of `gpus` GPUs."""
    run, bf16 = stage.run, stage.run.precision == "bf16"
    sharded = gpus > 1 and (isinstance(stage, CptConfig) or stage.run.shard)
    share = gpus if sharded else 1
    rows_here = max(1, run.sequences_per_step // gpus)
    rows = min(run.sequences_per_pass or rows_here, rows_here)
    shape = (rows, stage.data.tokens_per_sequence)
    if isinstance(stage, SftConfig):
        shape = (1, math.prod(shape))  # TRL lays rows end to end
    compute = ("bf16" if sharded else "autocast") if bf16 else "fp32"
    need = activations(config, rows=shape[0], tokens=shape[1], attention=stage.model.attention, compute=compute)
    lora = getattr(stage.model, "lora_rank", 0) > 0
    stored = BF16 if lora and bf16 else FP32
    gradients = FP32 * sizes.trained // share
    held, peak_gradients = _peak(config, stage, need, sizes, math.prod(shape), gradients, rows < rows_here, share)
    width = BF16 if bf16 else FP32
    # Gathered for use: tables, norm and head for the whole pass, and two layers; at the end their gradients, reduced.
    gathered = width * (sizes.outside + 2 * sizes.layer) if sharded else 0
    reducing = (width + FP32) * sizes.outside if sharded else 0
    if sharded and reducing > held:  # activations are gone when the tables' gradients are reduced
        held = 0
    else:
        reducing = 0
    return MemoryNeed(
        weights=stored * sizes.total // share,
        optimiser=sizes.optimiser_bytes // share,
        gradients=peak_gradients,
        activations=held,
        working=gathered + reducing,
    )


def _peak(
    config: Qwen3ScaleSeqConfig,
    stage: CptConfig | SftConfig,
    need: Activations,
    sizes: Sizes,
    tokens: int,
    gradients: int,
    accumulating: bool,
    share: int,
) -> tuple[int, int]:
    """(activations, gradients) at the moment when both together are largest."""
    checkpointing, layers = stage.model.gradient_checkpointing, config.num_hidden_layers
    chunk = min(tokens, getattr(stage.run, "loss_chunk_tokens", tokens))
    # Of a chunk of tokens, in float32: logits, log-probabilities and their gradient; then the head's own gradient.
    logits = FP32 * chunk * config.vocab_size
    head = FP32 * sizes.head // share
    saved = need.saved(layers, checkpointing=checkpointing)
    after_head = gradients if accumulating else head
    at_last = need.outside + (need.boundary if checkpointing else 0) + need.layer + need.backward
    embeddings = FP32 * (sizes.outside - sizes.head) // share
    moments = [
        (saved + 3 * logits, gradients if accumulating else 0),  # the loss
        (saved + logits, after_head),  # the head's gradient
        (saved + need.backward + (need.layer if checkpointing else 0), after_head),  # the last layer
        (at_last, gradients if accumulating else max(0, gradients - embeddings)),  # the first layer
        (need.boundary, gradients),  # the tables, and the optimiser's step
    ]
    return max(moments, key=sum)
