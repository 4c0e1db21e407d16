"""`hidden-decoding doctor`: does this machine have what the package needs, one line per check.

Contract: each check is `ok`, `warn` (works, but something is absent or slow) or `fail`; exit code 1 when one fails. The
supported versions are read from the installed package's own metadata, so they are written down once.

    $ hidden-decoding doctor --json
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from packaging.requirements import Requirement

DISTRIBUTION = "hidden-decoding"
EXTRAS = {
    "serve": "the HTTP server",
    "train": "training",
    "eval": "evaluation",
    "demo": "the demonstration",
    "vllm": "serving through vLLM",
    "sglang": "serving through SGLang",
}
LOW_DISK_BYTES = 30 * 10**9  # an 8B checkpoint of n = 8 in bf16 takes 25 GB


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the report."""

    name: str
    status: str
    detail: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `doctor`."""
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")


def run(args: argparse.Namespace) -> int:
    """Prints all checks; 1 when one of them fails."""
    checks = all_checks()
    failed = any(check.status == "fail" for check in checks)
    if args.json:
        print(json.dumps({"ok": not failed, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            print(f"{check.status:<4}  {check.name:<{width}}  {check.detail}")
    return int(failed)


def all_checks() -> list[Check]:
    """Every check, in the order of the report."""
    return [*version_checks(), cpu_check(), gpu_check(), *extra_checks(), hub_check(), disk_check()]


def version_checks() -> Iterator[Check]:
    """Python and each required package against the ranges of the package's metadata."""
    from packaging.specifiers import SpecifierSet

    try:
        metadata = importlib.metadata.metadata(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        yield Check(name=DISTRIBUTION, status="fail", detail="is not installed; run: pip install -e .")
        return
    yield Check(name=DISTRIBUTION, status="ok", detail=str(metadata["Version"]))
    supported = SpecifierSet(metadata["Requires-Python"] or "")
    python, fits = platform.python_version(), platform.python_version() in supported
    advice = "" if fits else "; make an environment with a supported Python"
    yield Check(name="python", status="ok" if fits else "fail", detail=f"{python} (supported {supported}){advice}")
    for requirement in requirements(None):
        problem = unmet(requirement)
        if problem is None:
            detail = f"{importlib.metadata.version(requirement.name)} (supported {requirement.specifier})"
            yield Check(name=requirement.name, status="ok", detail=detail)
        else:
            detail = f'{problem}; run: pip install "{requirement.name}{requirement.specifier}"'
            yield Check(name=requirement.name, status="fail", detail=detail)


def requirements(extra: str | None) -> list[Requirement]:
    """What the package requires, or what one extra adds to that."""
    from packaging.requirements import Requirement

    try:
        parsed = [Requirement(line) for line in importlib.metadata.requires(DISTRIBUTION) or []]
    except importlib.metadata.PackageNotFoundError:
        return []
    if extra is None:
        return [item for item in parsed if item.marker is None or item.marker.evaluate({"extra": ""})]
    always = [item for item in parsed if item.marker is None]
    return [item for item in parsed if item not in always and item.marker and item.marker.evaluate({"extra": extra})]


def unmet(requirement: Requirement) -> str | None:
    """Why the requirement is not met, or None when it is."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{version} is outside the supported {requirement.specifier}"
    return None


def cpu_check() -> Check:
    """Cores and threads: spinning OpenMP threads slow a shared machine down several times."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS")
    policy = os.environ.get("OMP_WAIT_POLICY")
    seen = f"{cores} cores, OMP_NUM_THREADS={threads or 'unset'}, OMP_WAIT_POLICY={policy or 'unset'}"
    if threads and threads.isdigit() and int(threads) > cores:
        return Check(name="cpu", status="warn", detail=f"{seen}; run: export OMP_NUM_THREADS={cores}")
    if (policy or "").upper() != "PASSIVE":
        advice = "on a shared CPU machine run: export OMP_WAIT_POLICY=PASSIVE"
        return Check(name="cpu", status="warn", detail=f"{seen}; {advice}")
    return Check(name="cpu", status="ok", detail=seen)


def gpu_check() -> Check:
    """The accelerators torch can use."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check(name="gpu", status="fail", detail=f"torch cannot be loaded ({error}); reinstall it")
    if not torch.cuda.is_available():
        return Check(name="gpu", status="warn", detail=f"none that torch {torch.__version__} can use: the CPU computes")
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    listed = ", ".join(f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)" for gpu in found)
    return Check(name="gpu", status="ok", detail=listed)


def extra_checks() -> Iterator[Check]:
    """Optional parts, and the command that brings each."""
    for extra, purpose in EXTRAS.items():
        absent = [requirement.name for requirement in requirements(extra) if unmet(requirement) is not None]
        if not absent:
            yield Check(name=f"extra {extra}", status="ok", detail=f"{purpose}: installed")
        else:
            command = f'pip install "{DISTRIBUTION}[{extra}]"'
            detail = f"{purpose}: {', '.join(absent)} absent or outside the range; to have it: {command}"
            if extra in ("vllm", "sglang"):
                detail += " (in an environment of its own)"
            yield Check(name=f"extra {extra}", status="warn", detail=detail)


def hub_check() -> Check:
    """Where hub ids are looked up."""
    try:
        from huggingface_hub import constants
    except ImportError as error:
        return Check(name="hub", status="fail", detail=f"huggingface_hub cannot be loaded ({error}); reinstall it")
    if constants.HF_HUB_OFFLINE:
        return Check(name="hub", status="ok", detail=f"offline (HF_HUB_OFFLINE): only {constants.HF_HUB_CACHE} is read")
    return Check(name="hub", status="ok", detail=f"{constants.ENDPOINT}, cache {constants.HF_HUB_CACHE}")


def disk_check() -> Check:
    """Free space where hub checkpoints are kept."""
    cache = Path(os.environ.get("HF_HUB_CACHE") or os.environ.get("HF_HOME") or Path.home())
    existing = next((path for path in (cache, *cache.parents) if path.exists()), Path())
    free = shutil.disk_usage(existing).free
    seen = f"{free / 1e9:.0f} GB free at {existing}"
    if free < LOW_DISK_BYTES:
        return Check(
            name="disk", status="warn", detail=f"{seen}: less than an 8B checkpoint of 8 streams takes (25 GB)"
        )
    return Check(name="disk", status="ok", detail=seen)
