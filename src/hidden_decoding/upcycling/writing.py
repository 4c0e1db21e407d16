"""Carries out an upcycling plan: weights tensor by tensor, then the small files, in a directory that is renamed last.

Contract: `out` appears complete or not at all; memory stays bounded by one buffer and one block of noise. The weights
come first and `config.json` last, so that nothing half-written can be taken for a checkpoint.

    >>> write_upcycled(plan_upcycling("path/to/base", UpcycleConfig(streams=4)), "path/to/base-n4")
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from hidden_decoding.modeling.companion_files import copy_companions
from hidden_decoding.modeling.config_file import CONFIG_FILE, published_config_dict
from hidden_decoding.modeling.remote_code import write_remote_code
from hidden_decoding.modeling.safetensors_file import tensor_chunks, write_tensors
from hidden_decoding.modeling.staged_directory import check_space, staged_directory
from hidden_decoding.upcycling.model_card import model_card
from hidden_decoding.upcycling.noise import noisy_chunks, table_std

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hidden_decoding.modeling.safetensors_file import TensorEntry
    from hidden_decoding.upcycling.config import UpcycleConfig
    from hidden_decoding.upcycling.plan import Origin, UpcyclePlan

SMALL_FILES_BYTES = 64 * 2**20  # room for everything that is not weights


def write_upcycled(plan: UpcyclePlan, out: str | Path, *, progress: bool = True) -> Path:
    """Writes the checkpoint and returns its path; `progress` shows a bar on standard error if that is a terminal."""
    out = Path(out).expanduser().resolve()
    with staged_directory(out, overwrite=plan.settings.overwrite, source=plan.directory) as partial:
        check_space(partial, plan.total_bytes + SMALL_FILES_BYTES)
        _write_weights(plan, partial, progress)
        copy_companions(plan.directory, partial)
        write_remote_code(partial)
        (partial / "README.md").write_text(model_card(plan, out), encoding="utf-8")
        config_text = json.dumps(published_config_dict(plan.config), indent=2) + "\n"
        (partial / CONFIG_FILE).write_text(config_text, encoding="utf-8")
    return out


def _write_weights(plan: UpcyclePlan, directory: Path, progress: bool) -> None:
    std_of = functools.cache(table_std)  # one pass over each table that is copied, however many copies it gets
    with tqdm(
        total=plan.total_bytes,
        unit="B",
        unit_scale=True,
        desc="upcycle",
        file=sys.stderr,
        disable=None if progress else True,  # None: off unless it is a terminal
    ) as bar:
        write_tensors(
            directory,
            {name: origin.entry.spec for name, origin in plan.tensors.items()},
            lambda name: _chunks(plan.tensors[name], plan.settings, std_of),
            max_shard_bytes=plan.settings.max_shard_bytes,
            on_bytes=bar.update,
        )


def _chunks(
    origin: Origin, settings: UpcycleConfig, std_of: Callable[[Path, TensorEntry], float]
) -> Iterator[memoryview]:
    path, entry, stream = origin.path, origin.entry, origin.noisy_stream
    if stream is None:
        return tensor_chunks(path, entry)
    return noisy_chunks(path, entry, std=settings.noise * std_of(path, entry), seed=settings.seed, stream=stream)
