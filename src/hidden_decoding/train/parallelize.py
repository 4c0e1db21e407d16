"""The processes of a run, and how a model is spread over them. The model itself knows nothing of it.

Contract: started by `torchrun`, each process learns its rank from the environment; started plainly, there is one. With
more than one, every decoder layer and the rest are sharded by FSDP2 (`fully_shard`), gloo on CPU and NCCL on CUDA. The
same calls are no-ops in a single process.

    $ torchrun --nproc-per-node 2 -m hidden_decoding.cli.main train cpt -c run.yaml
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from hidden_decoding.errors import CapacityError
from hidden_decoding.train.loss import CausalLoss


@dataclass(frozen=True)
class World:
    """All processes of the run, and this one's place among them."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    @property
    def first_of_host(self) -> bool:
        """Whether this process prepares what each host needs once."""
        return self.local_rank == 0

    def wait(self) -> None:
        """Returns when all processes are here."""
        if self.size > 1:
            dist.barrier()

    def total(self, values: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values


def start(device: str) -> World:
    """Joins the run's processes; `device` is auto, cpu or cuda."""
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise CapacityError("--device cuda was asked for, but PyTorch sees no CUDA device; use --device cpu")
    chosen = torch.device("cuda", local_rank) if cuda and device != "cpu" else torch.device("cpu")
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
    return World(rank, size, local_rank, chosen)


def stop(world: World) -> None:
    """Leaves the run's processes."""
    if world.size > 1 and dist.is_initialized():
        dist.destroy_process_group()


def compile_layers(module: CausalLoss) -> None:
    """Compiles each decoder layer in place, before sharding: equal layers share what was compiled."""
    for layer in module.model.model.layers:
        layer.compile()


def shard(module: CausalLoss, world: World, precision: str) -> None:
    """Shards each decoder layer, then all that is left (tables, norm, head), in place. One process: nothing."""
    if world.size == 1:
        return
    mesh = init_device_mesh(world.device.type, (world.size,))
    options: dict[str, Any] = {"mesh": mesh}
    if precision == "bf16":
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in module.model.model.layers:
        fully_shard(layer, **options)
    fully_shard(module, **options)
