"""Builds the source archive and the wheel away from the checkout, and makes environments that hold the wheel.

Contract: nothing is written into the checkout, and nothing in the environments points back to it. Heavy dependencies
are not installed a second time: an environment may read the running interpreter's packages through a `.pth` line. Such
a line puts a directory on the path and does not follow its `.pth` files, so an editable install of ours in there stays
unseen, and the package that is imported can only be the wheel's (`test_wheel.py` asserts it).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_SOURCE = (".git", ".venv*", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis", "build", "dist", "site", "runs")


@dataclass(frozen=True, kw_only=True)
class Built:
    """The two archives."""

    wheel: Path
    source: Path


def build(directory: Path) -> Built:
    """The source archive from a copy of the tree, and the wheel from that archive, as a release would be made."""
    tree = directory / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*NOT_SOURCE, "demo-out"))
    checked([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(directory), str(tree)], directory)
    shutil.rmtree(tree)
    [wheel], [source] = directory.glob("*.whl"), directory.glob("*.tar.gz")
    return Built(wheel=wheel, source=source)


def environment_with(wheel: Path, directory: Path, *, dependencies: bool) -> Path:
    """A virtual environment with the wheel installed; returns its directory of commands."""
    venv.create(directory, with_pip=False, symlinks=True)
    python = directory / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    checked([*install, str(wheel)], directory, env=stranger(directory / "bin"))  # PYTHONPATH would count as installed
    if dependencies:
        [packages] = directory.glob("lib/python*/site-packages")
        (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    return directory / "bin"


def stranger(commands: Path, **more: str) -> dict[str, str]:
    """The variables of someone who has just installed the wheel: `commands` come first, nothing of the checkout."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST", "COV_"))}
    return {**kept, "PATH": f"{commands}:{os.environ['PATH']}", "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1", **more}


def checked(command: list[str], directory: Path, **how) -> subprocess.CompletedProcess[str]:
    """Runs a command that must end well."""
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300, check=False, **how)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done
