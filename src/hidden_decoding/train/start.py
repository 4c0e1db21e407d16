"""The checkpoint a run starts from: the one its settings name, or that one with more streams.

Contract: `find_start` decides without writing anything, so that all checks can come first; `write_start` makes
`OUT/start` where streams are added (every process calls it, the first writes), and finds it again on resuming.
`remove_start` takes it away when the run's own model is there.

Place in the flow: called by `prepare.py`; uses `upcycling`.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from hidden_decoding.modeling.checkpoint import load_config, resolve_model
from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig
from hidden_decoding.train.config import ModelSettings
from hidden_decoding.train.parallelize import World
from hidden_decoding.upcycling.config import UpcycleConfig
from hidden_decoding.upcycling.plan import UpcyclePlan, plan_upcycling
from hidden_decoding.upcycling.writing import write_upcycled

START = "start"


@dataclass(frozen=True, kw_only=True)
class Start:
    """`directory` holds the tokenizer; `config` is of what is trained; `plan` is set where streams are added to it."""

    directory: Path
    config: Qwen3ScaleSeqConfig
    plan: UpcyclePlan | None


def find_start(settings: ModelSettings) -> Start:
    """The start of a run. Reads configuration and headers, no weights."""
    directory = resolve_model(settings.model, settings.revision)
    config = load_config(directory)
    if settings.streams is None or (settings.streams == config.num_streams and settings.positions is None):
        return Start(directory=directory, config=config, plan=None)
    wanted = UpcycleConfig(streams=settings.streams, positions=settings.positions, noise=settings.noise)
    plan = plan_upcycling(directory, wanted)
    return Start(directory=directory, config=plan.config, plan=plan)


def write_start(start: Start, out: Path, world: World, *, progress: bool) -> Path:
    """The directory whose weights are trained."""
    if start.plan is None:
        return start.directory
    target = out / START
    if world.first and not target.exists():  # it appears whole or not at all
        write_upcycled(start.plan, target, progress=progress)
    world.wait()
    return target.resolve()


def remove_start(out: Path, world: World) -> None:
    """Removes `OUT/start`, if there is one: the run's model has taken its place."""
    if world.first:
        shutil.rmtree(out / START, ignore_errors=True)
