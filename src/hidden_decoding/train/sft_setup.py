"""What `sft.py` hands to TRL: the model with or without adapters, optimiser and learning rate, arguments, the device.

Contract: settings in, objects of transformers, peft and TRL out; nothing here trains.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy

from hidden_decoding.errors import CapacityError, ConfigError
from hidden_decoding.modeling.checkpoint import load_model
from hidden_decoding.train.config import ScheduleSettings
from hidden_decoding.train.joined_optimiser import JoinedOptimiser
from hidden_decoding.train.optimiser import freeze, learning_rate, make_optimisers
from hidden_decoding.train.sft_config import SftConfig

SHARDING = {
    "version": 2,
    "reshard_after_forward": True,
    "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",  # the classes that the model calls indivisible
    "state_dict_type": "SHARDED_STATE_DICT",
}
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_model(config: SftConfig, directory: Path) -> Any:
    """The model, with adapters where asked for; what is not trained is frozen."""
    settings = config.model
    # Frozen weights need no more precision than they come in.
    dtype = "auto" if settings.lora_rank and config.run.precision == "bf16" else "float32"
    model: Any = load_model(directory, dtype=dtype, attn_implementation=settings.attention)
    model.config.use_cache = False
    if not settings.lora_rank:
        freeze(model, config.optimiser)
        return model
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(config.run.seed)
    lora = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=LORA_TARGETS,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora)


def make_optimiser(model: Any, config: SftConfig) -> torch.optim.Optimizer:
    """The optimiser: Muon and AdamW behind one interface."""
    made = make_optimisers(model, config.optimiser)
    optimiser = made[0] if len(made) == 1 else JoinedOptimiser(made)
    for group in optimiser.param_groups:
        group["lr"] = config.optimiser.learning_rate * group["rate"]
    return optimiser


def make_scheduler(optimiser: torch.optim.Optimizer, schedule: ScheduleSettings) -> Any:
    """The optimiser's learning rate over the run."""
    return torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: learning_rate(step, 1.0, schedule))


def arguments(
    config: SftConfig, schedule: ScheduleSettings, *, accumulate: int, on_cpu: bool, shard: bool = False
) -> Any:
    """TRL's arguments."""
    from trl import SFTConfig

    run, checkpointing = config.run, config.model.gradient_checkpointing
    made = SFTConfig(
        fsdp=shard,
        fsdp_config=SHARDING if shard else None,
        output_dir=str(Path(run.out) / "checkpoints"),
        max_steps=schedule.steps,
        per_device_train_batch_size=run.sequences_per_pass,
        gradient_accumulation_steps=accumulate,
        learning_rate=config.optimiser.learning_rate,
        max_grad_norm=config.optimiser.clip_norm,
        logging_steps=1,
        logging_strategy="steps",
        logging_nan_inf_filter=False,
        report_to="none",
        eval_strategy="no",  # the recorder evaluates
        save_strategy="steps" if run.checkpoint_every or run.stop_at_step else "no",
        save_steps=run.checkpoint_every or schedule.steps + 1,
        save_total_limit=run.keep_checkpoints,
        bf16=run.precision == "bf16",
        use_cpu=on_cpu,
        disable_tqdm=True,
        dataloader_pin_memory=not on_cpu,
        gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
        padding_free=True,  # rows are laid end to end, positions restart with each sample
        max_length=None,  # longer samples are left out already
        dataset_kwargs={"skip_prepare_dataset": True},
        seed=run.seed,
        data_seed=config.data.data_seed,
        ddp_find_unused_parameters=False,
    )
    if shard and run.precision == "bf16":  # gradients are added up in float32, as in `parallelize.py`
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        made.fsdp_plugin_args["mixed_precision_policy"] = policy
    return made


def shards(config: SftConfig, world: int, *, on_cpu: bool) -> bool:
    """Whether FSDP2 shards the run; refuses what it cannot."""
    if not config.run.shard or world == 1:
        return False
    if config.model.lora_rank:
        raise ConfigError(
            "--shard is for training all weights; adapters (--lora-rank) are small, and each GPU holds the frozen "
            "model: drop one of the two"
        )
    if on_cpu:
        raise ConfigError("--shard needs GPUs: accelerate, under TRL, shards on no CPU; drop it, or give --device cuda")
    return True


def on_cpu(device: str) -> bool:
    """Whether to compute on the CPU; refuses a device that is not there, and several GPUs in one process."""
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise CapacityError("--device cuda was asked for, but PyTorch sees no CUDA device; use --device cpu")
    gpus = torch.cuda.device_count() if cuda and device != "cpu" else 0
    if gpus > 1 and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            f"this process sees {gpus} GPUs; start one process for each (torchrun --nproc-per-node {gpus} --no-python "
            "hidden-decoding train sft ...), or show it one (CUDA_VISIBLE_DEVICES=0)"
        )
    return not cuda or device == "cpu"


def passes_per_step(config: SftConfig, world: int) -> int:
    """Forward passes of one process in one step."""
    rows, each = config.run.sequences_per_step, config.run.sequences_per_pass
    if rows % (each * world):
        raise ConfigError(
            f"sequences_per_step is {rows}, which {world} process(es) with {each} row(s) a pass cannot share evenly; "
            f"make it a multiple of {each * world}"
        )
    return rows // (each * world)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without TRL's and transformers' remarks about settings that are chosen here."""
    loggers = [logging.getLogger(name) for name in ("trl", "transformers", "accelerate")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
