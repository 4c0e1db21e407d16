"""Steps whose loss or gradient is NaN or infinite: the weights stay as they were, and the run stops or goes on.

Contract: `Nonfinite.met` is told of each such step and gives its record, `Nonfinite.error` what to raise where the run
is to stop: with `on_nonfinite: stop`, or after `MOST_SKIPPED` in a row, which is no accident.

Place in the flow: used by `loop.py` and `sft_trainer.py`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from hidden_decoding.errors import ConfigError

log = logging.getLogger(__name__)
MOST_SKIPPED = 10


@dataclass
class Nonfinite:
    """Counts such steps in a row; `action` is the setting `on_nonfinite`, `rate` the peak learning rate."""

    action: str
    rate: float
    row: int = 0

    @property
    def stops(self) -> bool:
        """Whether the step that was met last ends the run."""
        return self.row > 0 and (self.action == "stop" or self.row == MOST_SKIPPED)

    def met(self, step: int, seconds: float, loss: float, norm: float) -> dict[str, Any]:
        """The record of a step that left the weights as they were."""
        self.row += 1
        log.warning("step %d: loss %s, gradient norm %s: weights left as they were", step, loss, norm)
        values = {"loss": str(loss), "gradient_norm": str(norm)}  # as text: JSON has no NaN
        action = "stop" if self.stops else "skip"
        return {"kind": "nonfinite", "step": step, "seconds": seconds, "action": action, **values}

    def error(self, step: int, loss: float, norm: float) -> ConfigError:
        """Why the run stops, and what to do."""
        return ConfigError(
            f"at step {step} the loss is {loss} and the gradient's norm {norm}"
            + (f", after {self.row} such steps in a row" if self.row > 1 else "")
            + f": training diverged; start a new run with a smaller --learning-rate (now {self.rate:g}) or a longer "
            "--warmup-steps, or leave single steps out with --on-nonfinite skip"
        )
