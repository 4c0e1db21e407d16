"""AdamW and the learning rate of a step.

Contract: matrices and embedding tables are decayed, vectors (norm weights) are not. The learning rate depends on the
step number alone, so a resumed run needs no scheduler state.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from hidden_decoding.train.config import OptimiserSettings, ScheduleSettings


def make_optimiser(module: nn.Module, settings: OptimiserSettings) -> torch.optim.AdamW:
    """AdamW over all trainable parameters of `module`."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=True,
    )


def learning_rate(step: int, peak: float, schedule: ScheduleSettings) -> float:
    """Learning rate of the step with index `step` (from 0): linear warm-up, then half a cosine."""
    if step < schedule.warmup_steps:
        return peak * (step + 1) / schedule.warmup_steps
    progress = min(1.0, (step - schedule.warmup_steps) / max(1, schedule.steps - schedule.warmup_steps))
    share = schedule.final_fraction + (1 - schedule.final_fraction) * (1 + math.cos(math.pi * progress)) / 2
    return peak * share
