"""Several optimisers as one, for trainers and checkpoints that know a single one.

Contract: steps and clears its parts in order. Groups and states are the parts' own objects, so a schedule that writes
rates, and FSDP2, which replaces parameters, reach the parts; what is saved is what one optimiser with all the groups
would save. Used by `sft_setup.py` for Muon beside AdamW.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch


class JoinedOptimiser(torch.optim.Optimizer):
    """The optimisers of `parts` behind one interface."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts
        self.groups_of = [len(part.param_groups) for part in parts]
        super().__init__([group for part in parts for group in part.param_groups], {})

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every part."""
        loss = closure() if closure is not None else None
        for part in self.parts:
            part.step()
        self.state = defaultdict(dict, {p: state for part in self.parts for p, state in part.state.items()})
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients of all parts."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` gave, and hands each part its own."""
        super().load_state_dict(state_dict)
        groups = iter(self.param_groups)
        for part, count in zip(self.parts, self.groups_of, strict=True):
            part.param_groups = [next(groups) for _ in range(count)]
            own = {p for group in part.param_groups for p in group["params"]}
            part.state = defaultdict(dict, {p: state for p, state in self.state.items() if p in own})
