"""Checkpoints to resume from: everything that makes the next step what it would have been.

Contract: `OUT/checkpoints/step-00000500/` holds weights, AdamW state and random generators
(torch.distributed.checkpoint: each process writes its own shards, any number of processes can read them) and
`state.json` (step, place in the data, totals). It is written under a hidden name and renamed when all is there, so a
directory with the final name is complete; `latest` looks at nothing else. In one process on a CPU, resumed equals
uninterrupted bit for bit.

Place in the flow: called by `loop.py`. The published format is written by `export.py` instead.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors

from hidden_decoding.errors import CheckpointError, ConfigError
from hidden_decoding.train.loss import CausalLoss
from hidden_decoding.train.parallelize import World

STATE_FILE = "state.json"
Optimisers = torch.optim.Optimizer | list[torch.optim.Optimizer]


def checkpoints_in(out: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = (out / "checkpoints").glob("step-*")
    return sorted(path for path in found if (path / STATE_FILE).is_file() and (path / ".metadata").is_file())


def latest(out: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    return next(reversed(checkpoints_in(out)), None)


def save(
    out: Path, module: CausalLoss, optimiser: Optimisers, state: dict[str, Any], world: World, *, keep: int
) -> Path:
    """Writes the checkpoint of `state["step"]`; called by all processes. Then removes all but the newest `keep`."""
    final = out / "checkpoints" / f"step-{state['step']:08d}"
    partial = final.with_name(f".{final.name}.partial")
    if world.first:
        for leftover in final.parent.glob(".*.partial"):
            shutil.rmtree(leftover)
        partial.mkdir(parents=True)
    world.wait()
    tensors = {**_training_state(module, optimiser), "random": _generators(world)}
    with _quiet():
        save_tensors(tensors, checkpoint_id=partial, no_dist=world.size == 1)
    world.wait()
    if world.first:
        about = {**state, "processes": world.size}
        (partial / STATE_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        for old in checkpoints_in(out)[:-keep]:
            shutil.rmtree(old)
    world.wait()
    return final


def read_state(path: Path) -> dict[str, Any]:
    """What `save` was given as state, and `processes`; reads no tensors."""
    state: dict[str, Any] = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
    return state


def check_settings(then: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    """Refuses to go on from the checkpoint at `path` with other settings than it was made with."""
    changes = [f"{name}: {then.get(name)!r} then, {now[name]!r} now" for name in now if then.get(name) != now[name]]
    if changes:
        raise ConfigError(
            f"cannot resume {path}: {'; '.join(changes)}; give the settings of the interrupted run (its run.json), or "
            "start a new run in another --out"
        )


def load(path: Path, module: CausalLoss, optimiser: Optimisers, world: World) -> None:
    """Restores weights, optimiser and random generators in place; called by all processes."""
    tensors: dict[str, Any] = _training_state(module, optimiser)
    same_processes = read_state(path)["processes"] == world.size
    if same_processes:  # another number of processes has other generators; only dropout would draw from them
        tensors["random"] = _generators(world)
    try:
        with _quiet():
            load_tensors(tensors, checkpoint_id=path, no_dist=world.size == 1)
    except (CheckpointException, Exception) as error:  # the former is no `Exception`
        raise CheckpointError(
            f"checkpoint {path} is damaged or not of this model ({_reason(error)}); remove that directory to resume "
            "from the one before it"
        ) from error
    set_model_state_dict(module.model, tensors["model"])
    set_optimizer_state_dict(module.model, optimiser, tensors["optimiser"])
    if same_processes:
        _restore_generators(tensors["random"], world)


def _training_state(module: CausalLoss, optimiser: Optimisers) -> dict[str, Any]:
    """Weights and optimiser state by name of the model's parameters, sharded as they are."""
    return {
        "model": get_model_state_dict(module.model),
        "optimiser": get_optimizer_state_dict(module.model, optimiser),
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Without PyTorch's remark that a single process is taken for one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _reason(error: BaseException) -> str:
    failures = error.failures.values() if isinstance(error, CheckpointException) else ()
    cause = next((failure[0] for failure in failures), error)
    return f"{type(cause).__name__} {cause}".strip().splitlines()[0]


def _generators(world: World) -> dict[str, torch.Tensor]:
    states = {f"cpu.{world.rank}": torch.get_rng_state()}
    if world.device.type == "cuda":
        states[f"cuda.{world.rank}"] = torch.cuda.get_rng_state(world.device)
    return states


def _restore_generators(states: dict[str, torch.Tensor], world: World) -> None:
    torch.set_rng_state(states[f"cpu.{world.rank}"])
    if world.device.type == "cuda":
        torch.cuda.set_rng_state(states[f"cuda.{world.rank}"], world.device)
