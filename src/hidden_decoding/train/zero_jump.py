"""Zero-jump start: attention between streams opens over the first steps, so that step 0 computes what the base does.

Contract: `ZeroJump(steps).before_step(model, step)` sets the share of attention to other streams that is open: none at
step 0, all from step `steps` on; in between attention weights to other streams count `step / steps` before they are
normalised (a bias of log(step / steps) on their scores). Step 0 is exact only if streams were copied unchanged and
positions are linear: each stream then reads the base's embeddings at the base's distances, and `check` refuses the
rest. It is a matter of the run, not of the model: nothing of it is saved.

    >>> ZeroJump(100).before_step(model, 0)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hidden_decoding.errors import ConfigError
from hidden_decoding.modeling.model import Qwen3ScaleSeqAttention

if TYPE_CHECKING:
    from torch import nn

    from hidden_decoding.modeling.model import Qwen3ScaleSeqForCausalLM


@dataclass(frozen=True)
class ZeroJump:
    """`steps` until everything is open; 0 does nothing."""

    steps: int

    def check(self, model: Qwen3ScaleSeqForCausalLM) -> None:
        """Refuses a start that would not be exact, before training."""
        config = model.config
        if self.steps == 0:
            return
        if config.num_streams == 1 or (config.rope_parameters or {}).get("rope_type") != "linear":
            raise ConfigError(
                f"--zero-jump-steps is {self.steps}, but it needs a model of several streams with linear positions "
                f"(this one: n = {config.num_streams}): only then are a stream's rows as far apart as the base's "
                "tokens; make it with: hidden-decoding upcycle BASE --streams N --positions linear"
            )
        if "local" in (config.stream_attention or []):
            raise ConfigError(
                f"--zero-jump-steps is {self.steps}, but layers of local attention see fewer tokens than the base's: "
                "step 0 would not be the base's loss; drop --zero-jump-steps"
            )
        if config._attn_implementation not in ("sdpa", "eager"):
            raise ConfigError(
                f"--zero-jump-steps needs --attention sdpa or eager, not {config._attn_implementation}: the others "
                "take no bias between streams"
            )
        first, *_, last = (weight for name, weight in model.named_parameters() if "embed_tokens" in name)
        if not torch.equal(first, last):
            raise ConfigError(
                f"--zero-jump-steps is {self.steps}, but the last stream's table is not an unchanged copy of the "
                "first's, so step 0 would not be the base's loss; upcycle a plain base without --noise"
            )

    def before_step(self, model: nn.Module, step: int) -> None:
        """Opens attention between streams as far as `step` wants."""
        if self.steps == 0:
            return
        opened = min(1.0, step / self.steps)
        for module in model.modules():
            if isinstance(module, Qwen3ScaleSeqAttention):
                module.cross_stream_open = opened
