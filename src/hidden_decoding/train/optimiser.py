"""AdamW or Muon over groups of parameters, and the learning rate of a step.

Contract: a parameter belongs to the group `tables` (those hidden decoding adds), `head` (an untied lm_head) or
`backbone` (all else). A group's rate is a multiple of the run's; 0 freezes it (`freeze`, before sharding). Matrices and
embedding tables are decayed, vectors (norm weights) are not. Muon takes the matrices of decoder layers, AdamW the rest,
both at the same learning rate: Muon's update is scaled to the root mean square that AdamW's has (arXiv 2502.16982,
`match_rms_adamw`). The rate depends on the step number alone, so a resumed run needs no scheduler state.

Place in the flow: called by `loop.py` and `sft_setup.py`.

    >>> make_optimisers(model, OptimiserSettings(optimiser="muon"))
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from hidden_decoding.errors import ConfigError
from hidden_decoding.train.config import OptimiserSettings, ScheduleSettings
from hidden_decoding.train.muon import Muon

GROUPS = ("tables", "backbone", "head")


def group_of(name: str) -> str:
    """The group of the parameter `name`."""
    if "scale_seq_embed_tokens_list" in name:
        return "tables"
    return "head" if "lm_head" in name else "backbone"


def check_groups(settings: OptimiserSettings, *, streams: int, tied: bool) -> None:
    """Refuses what cannot be meant, before weights are read."""
    if tied and (settings.head_rate != 1 or settings.head_weight_decay is not None):
        raise ConfigError(
            "head_rate and head_weight_decay are for an lm_head of its own, but this model's is tied to its input "
            "table, which is of the backbone; drop them"
        )
    rates = {"backbone": settings.backbone_rate}
    if streams > 1:
        rates["tables"] = settings.tables_rate
    if not tied:
        rates["head"] = settings.head_rate
    if not any(rates.values()):
        raise ConfigError(
            f"the rates of all groups this model has ({', '.join(rates)}) are 0: nothing would be trained; leave one "
            "of --tables-rate, --backbone-rate and --head-rate above 0"
        )


def freeze(module: nn.Module, settings: OptimiserSettings) -> None:
    """Takes the groups whose rate is 0 out of training."""
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(getattr(settings, f"{group_of(name)}_rate") > 0)


def make_optimisers(module: nn.Module, settings: OptimiserSettings) -> list[torch.optim.Optimizer]:
    """AdamW over all trainable parameters of `module`, preceded by Muon where it is asked for."""
    adamw: list[dict[str, Any]] = []
    muon: list[dict[str, Any]] = []
    trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    for group in GROUPS:
        own = [(name, p) for name, p in trainable if group_of(name) == group]
        decay = getattr(settings, f"{group}_weight_decay", None)
        decay = settings.weight_decay if decay is None else decay
        by_muon = [p for name, p in own if settings.optimiser == "muon" and ".layers." in name and p.ndim == 2]
        taken = {id(p) for p in by_muon}
        rest = [p for _, p in own if id(p) not in taken]
        shared = {"rate": getattr(settings, f"{group}_rate")}
        muon.append({"params": by_muon, "weight_decay": decay, **shared})
        adamw.append({"params": [p for p in rest if p.ndim > 1], "weight_decay": decay, **shared})
        adamw.append({"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0, **shared})
    adamw, muon = ([group for group in groups if group["params"]] for groups in (adamw, muon))
    made: list[torch.optim.Optimizer] = []
    rate = settings.learning_rate
    if muon:
        made.append(Muon(muon, lr=rate, momentum=settings.muon_momentum, adjust_lr_fn="match_rms_adamw"))
    if adamw:
        betas = (settings.beta1, settings.beta2)
        made.append(torch.optim.AdamW(adamw, lr=rate, betas=betas, eps=settings.epsilon, fused=True))
    return made


def gradient_norms(module: nn.Module) -> dict[str, float]:
    """Norm of each group's gradient, over all processes; groups that have none are left out."""
    norms = {}
    for group in GROUPS:
        grads = [p.grad for name, p in module.named_parameters() if group_of(name) == group]
        if found := [grad for grad in grads if grad is not None]:
            norm: Any = torch.nn.utils.get_total_norm(found)
            norms[group] = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
    return norms


def learning_rate(step: int, peak: float, schedule: ScheduleSettings) -> float:
    """Learning rate of the step with index `step` (from 0): linear warm-up, then half a cosine, or flat and a line."""
    if step < schedule.warmup_steps:
        return peak * (step + 1) / schedule.warmup_steps
    begin = schedule.warmup_steps
    if schedule.schedule == "wsd":
        begin = schedule.steps - (schedule.decay_steps or _default_decay(schedule))
    progress = min(1.0, max(0.0, (step - begin) / max(1, schedule.steps - begin)))
    left = 1 - progress if schedule.schedule == "wsd" else (1 + math.cos(math.pi * progress)) / 2
    return peak * (schedule.final_fraction + (1 - schedule.final_fraction) * left)


def _default_decay(schedule: ScheduleSettings) -> int:
    return min(max(1, schedule.steps // 5), schedule.steps - schedule.warmup_steps)
