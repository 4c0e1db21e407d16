"""Upcycling: a base Qwen3 checkpoint gets n streams, or one of n streams gets k * n, by cyclic replication.

Contract: base directory -> new directory in the published format. Every table of the result is a copy of a table of the
base (E_{n+k} <- E_k; see `streams.replicated_stream`), optionally with noise; all other weights are the base's bytes.
The copy does not compute what the base computes: continue its training. Memory stays at a few hundred MB whatever the
size of the checkpoint and of its files. `config.py` says what can be chosen, `plan.py` decides what each tensor of the
result is, `writing.py` writes it, `noise.py` and `model_card.py` help it.

    $ hidden-decoding upcycle path/to/base --streams 4 --out path/to/base-n4
"""

from __future__ import annotations

from pathlib import Path


def upcycle(
    base: str | Path,
    streams: int,
    out: str | Path,
    *,
    positions: str | None = None,
    noise: float = 0.0,
    seed: int = 0,
    sfa: str | None = None,
    max_shard_size: str | int = "5GB",
    overwrite: bool = False,
    progress: bool = True,
    revision: str | None = None,
) -> Path:
    """Writes the checkpoint `out` with `streams` streams made from `base`, a directory or a hub id; returns its path.

    `positions` is "linear" (RoPE positions divided by the growth of streams, so that the base's trained range holds as
    many tokens as before; the default for a plain base) or "contiguous" (as published: the same positions hold fewer
    tokens); a base that has streams already keeps its scheme unless told. `noise` is the standard deviation of Gaussian
    noise on the copied tables, relative to that of the table they copy. `sfa` like "1:3" gives layers
    stream-factorised attention: 1 full, 3 intra-stream, repeating. Raises `ConfigError`, `CheckpointError` or
    `CapacityError`; nothing is left at `out` then.
    """
    from hidden_decoding.modeling.staged_directory import check_target
    from hidden_decoding.upcycling.config import UpcycleConfig
    from hidden_decoding.upcycling.plan import plan_upcycling
    from hidden_decoding.upcycling.writing import write_upcycled

    config = UpcycleConfig(
        streams=streams,
        positions=positions,
        noise=noise,
        seed=seed,
        sfa=sfa,
        max_shard_size=str(max_shard_size),
        overwrite=overwrite,
    )
    check_target(Path(out), overwrite=overwrite)  # before anything is fetched
    return write_upcycled(plan_upcycling(base, config, revision=revision), out, progress=progress)
