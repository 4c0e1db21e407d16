"""PyTorch's own Muon, also where FSDP2 holds the matrices in shards.

Contract: given the same gradients, the update is to the last bit that of one process with the whole matrix. Momentum
and weights stay sharded. A matrix is whole in each process only while it is orthogonalised: one gather per matrix and
step, and the same products in every process. PyTorch's own also runs on shards, but leaves every product of
Newton-Schulz to DTensor, which talks between processes in each iteration and rounds otherwise.

Place in the flow: made by `optimiser.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import _muon

ORTHOGONALISE = "_zeropower_via_newtonschulz"  # the function of PyTorch's module that sees one matrix of a step
_of_whole: Callable[..., Tensor] = getattr(_muon, ORTHOGONALISE)


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` that gathers a sharded matrix to orthogonalise it."""

    def step(self, closure: Any = None) -> Any:
        """One step."""
        setattr(_muon, ORTHOGONALISE, _orthogonalise)
        try:
            return super().step(closure)  # type: ignore[no-untyped-call]
        finally:
            setattr(_muon, ORTHOGONALISE, _of_whole)


def _orthogonalise(update: Tensor, *settings: Any) -> Tensor:
    if not isinstance(update, DTensor):
        return _of_whole(update, *settings)
    whole = _of_whole(update.full_tensor(), *settings)
    # Every process has computed all of it: each takes its part, and nothing is sent.
    return distribute_tensor(whole, update.device_mesh, update.placements, src_data_rank=None)
