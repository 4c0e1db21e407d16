"""Held-out loss: nats per predicted token over the same rows every time, whatever the number of processes.

Contract: called by all processes, without gradient, with the module in evaluation mode. Loss and bits per byte read at
most `evaluate_tokens` held-out tokens, the first rows; tokens without a target in their row do not count.

Place in the flow: called by `loop.py` between steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hidden_decoding.train.config import RunSettings
from hidden_decoding.train.data import Batch, PackedRows, make_batch
from hidden_decoding.train.parallelize import World


def heldout_loss(
    loss_of: Callable[[Batch], Tensor], heldout: PackedRows, run: RunSettings, world: World
) -> tuple[float, int]:
    """Nats per predicted token, and how many tokens were predicted. `loss_of` gives a batch's summed nats."""
    rows = min(len(heldout), max(1, run.evaluate_tokens // heldout.width))
    share = max(1, run.sequences_per_step // world.size)
    size = run.sequences_per_pass or share
    sums = torch.zeros(2, dtype=torch.float64)
    for start in range(0, rows, size * world.size):
        # Every process makes the same number of passes; one without rows of its own runs a row that counts nothing.
        wanted = range(start + world.rank, min(start + size * world.size, rows), world.size)
        batch = make_batch(heldout.row(number) for number in (wanted or range(1))).to(world.device)
        loss = loss_of(batch)
        if wanted:
            sums += torch.tensor([float(loss), batch.predicted], dtype=torch.float64)
    nats, predicted = world.total(sums).tolist()
    return nats / max(predicted, 1), int(predicted)


def bits_per_byte(nats_per_token: float, heldout: PackedRows) -> float:
    """The same in bits per byte of the held-out text, which other tokenizers can be compared with."""
    return nats_per_token / math.log(2) * heldout.tokens / heldout.text_bytes
