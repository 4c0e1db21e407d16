"""`train sft --shard` in one of two processes on a CPU.

accelerate 1.15 shards on accelerators only, though FSDP2 itself does on a CPU too. Here, and nowhere else, accelerate
is told that several CPU processes are such a place; all else is what runs on GPUs.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m tests.train.sharded_sft RUN_FILE
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

from accelerate import state

from hidden_decoding.cli.main import main
from hidden_decoding.train import sft_setup


def let_accelerate_shard_on_a_cpu() -> None:
    kinds = {kind.name: kind for kind in state.DistributedType}
    state.DistributedType = SimpleNamespace(**{**kinds, "MULTI_NEURON": kinds["MULTI_CPU"]})
    shards = sft_setup.shards
    sft_setup.shards = lambda config, world, *, on_cpu: shards(config, world, on_cpu=False)


if __name__ == "__main__":
    let_accelerate_shard_on_a_cpu()
    sys.exit(main(["train", "sft", "-q", "-c", sys.argv[1]]))
