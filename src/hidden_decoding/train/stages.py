"""A run of several stages, like 1 -> 2 -> 4 -> 8 streams: each stage continues the model of the one before.

Contract: a stage is the run's settings with some of them changed (a run file's `stages:`, a list of the same sections).
Stage k runs in `OUT/stage-k` as a run of its own, starts from the model of stage k - 1, and reads the rows that come
after those the stages before have read, unless it names data of its own. All stages are checked before the first
begins. `OUT/model` is a link to the last stage's model. Interrupted runs go on in the stage where they stopped.

Place in the flow: between the command line and `loop.py`.

    >>> train_stages(chain_stages([CptConfig.build(**shared, streams=n) for n in (2, 4, 8)]))
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from hidden_decoding.errors import ConfigError
from hidden_decoding.modeling.checkpoint import load_config, resolve_model
from hidden_decoding.streams import stream_growth
from hidden_decoding.train import parallelize
from hidden_decoding.train.config import CptConfig
from hidden_decoding.train.loop import CptResult, train_in

log = logging.getLogger(__name__)


def train_stages(stages: list[CptConfig], *, progress: bool = True) -> list[CptResult]:
    """Runs all stages that are not finished; returns their results. `stages` are as `chain_stages` gives them."""
    check_growth(stages)
    world = parallelize.start(stages[0].run.device)
    results = []
    try:
        for number, config in enumerate(stages, start=1):
            out = Path(config.run.out)
            if (out / "model").exists():
                log.info("stage %d of %d is finished: %s", number, len(stages), out)
                continue
            results.append(train_in(world, config, progress=progress, label=f"stage {number} of {len(stages)}"))
            if results[-1].model is None:
                break
        if world.first and (Path(stages[-1].run.out) / "model").exists():
            _link(Path(stages[-1].run.out))
    finally:
        parallelize.stop(world)
    return results


def chain_stages(stages: list[CptConfig]) -> list[CptConfig]:
    """Stages as written, turned into runs: each in its own directory, from the model before, on fresh rows."""
    chained: list[CptConfig] = []
    for number, stage in enumerate(stages, start=1):
        out = Path(stage.run.out) / f"stage-{number}"
        model, data = stage.model, stage.data
        if chained:
            before = chained[-1]
            model = dataclasses.replace(model, model=str(Path(before.run.out) / "model"), revision=None)
            read = before.data.skip_sequences + before.schedule.steps * before.run.sequences_per_step
            if data == stages[number - 2].data:
                data = dataclasses.replace(data, skip_sequences=read)
        if data.cache_dir is None:
            data = dataclasses.replace(data, cache_dir=str(Path(stage.run.out) / "tokens"))
        run = dataclasses.replace(stage.run, out=str(out))
        chained.append(dataclasses.replace(stage, model=model, data=data, run=run))
    return chained


def check_growth(stages: list[CptConfig]) -> None:
    """Refuses stages whose streams are no whole multiples of those before, and a finished run, before any work."""
    last = Path(stages[-1].run.out)
    if (last / "model").exists():
        raise ConfigError(f"{last.parent} holds a finished run (its model is in {last / 'model'}); name another --out")
    first = stages[0].model
    streams = load_config(resolve_model(first.model, first.revision)).num_streams
    for number, stage in enumerate(stages, start=1):
        wanted = stage.model.streams or streams
        try:
            stream_growth(streams, wanted)
        except ValueError as error:
            raise ConfigError(
                f"stage {number} asks for {wanted} streams, but starts from {streams}; streams grow by whole "
                "multiples, like 1, 2, 4, 8"
            ) from error
        streams = wanted


def _link(last: Path) -> None:
    link = last.parent / "model"
    if not link.exists():
        link.symlink_to(Path(last.name) / "model", target_is_directory=True)
