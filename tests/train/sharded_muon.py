"""In each of two processes: Muon over sharded matrices against PyTorch's over whole ones, on the same gradients; prints
the largest difference of a weight after five steps, and for comparison that of PyTorch's own on the shards.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m tests.train.sharded_muon
"""

from __future__ import annotations

import json

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from hidden_decoding.train.muon import Muon

SHAPES = ((48, 144), (144, 48), (33, 48))  # wide, tall, and one whose rows two processes do not share evenly
SETTINGS = {"lr": 1e-2, "momentum": 0.95, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}


def after_five_steps(kind: type, mesh) -> list[torch.Tensor]:
    """The weights; sharded by rows where there is a mesh."""
    draw = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=draw) for shape in SHAPES]

    def held(whole: torch.Tensor) -> torch.Tensor:
        return whole if mesh is None else distribute_tensor(whole, mesh, [Shard(0)])

    weights = [torch.nn.Parameter(held(whole)) for whole in start]
    optimiser = kind(weights, **SETTINGS)
    for _ in range(5):
        for weight, shape in zip(weights, SHAPES, strict=True):
            weight.grad = held(torch.randn(shape, generator=draw))
        optimiser.step()
    return [weight.detach() if mesh is None else weight.detach().full_tensor() for weight in weights]


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mesh, whole = init_device_mesh("cpu", (2,)), after_five_steps(torch.optim.Muon, None)
    found = {}
    for name, kind in {"ours": Muon, "pytorch": torch.optim.Muon}.items():
        sharded = after_five_steps(kind, mesh)
        found[name] = max(float((one - other).abs().max()) for one, other in zip(whole, sharded, strict=True))
    if dist.get_rank() == 0:
        print(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
