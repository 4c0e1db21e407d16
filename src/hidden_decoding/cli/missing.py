"""Says how to get a package that a command needs and this environment lacks.

Contract: what brings a package is read from the installed distribution's own metadata, so that it is written down once
(pyproject.toml). Loads only the standard library: it is called where others could not be loaded.

    >>> how_to_install("uvicorn")
    "pip install 'hidden-decoding[serve]'"
"""

from __future__ import annotations

import importlib.metadata
import re

from hidden_decoding.errors import DependencyError

DISTRIBUTION = "hidden-decoding"
# Modules whose distribution has another name.
DISTRIBUTION_OF = {"yaml": "pyyaml", "sklearn": "scikit-learn", "PIL": "pillow"}
# In this order one is offered when several bring a package; dev is for a checkout.
EXTRAS = ("serve", "train", "eval", "demo", "vllm", "sglang")


def missing_package(error: ModuleNotFoundError, verb: str | None) -> DependencyError | None:
    """The error to show in place of a traceback, or None where a module of our own is missing (a fault, not misuse)."""
    package = (error.name or "").partition(".")[0]
    if not package or package == __name__.partition(".")[0]:
        return None
    what = f"hidden-decoding {verb}" if verb else "this command"
    return DependencyError(f"{what} needs {package}, which is not installed here; run: {how_to_install(package)}")


def how_to_install(package: str) -> str:
    """The command that brings the importable `package`: ours, with an extra where one is needed, or its own."""
    name = normalised(DISTRIBUTION_OF.get(package, package))
    extras = required_by().get(name)
    if extras is None:
        return f"pip install {name}"
    if None in extras:
        return f"pip install {DISTRIBUTION}"
    extra = next((known for known in EXTRAS if known in extras), "dev")
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def required_by() -> dict[str, set[str | None]]:
    """Distribution -> the extras that require it; None stands for the package without extras."""
    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found: dict[str, set[str | None]] = {}
    for line in lines:
        name = re.match(r"[\w.-]+", line)
        extra = re.search(r"""extra\s*==\s*["']([\w-]+)["']""", line)
        if name:
            found.setdefault(normalised(name.group()), set()).add(extra.group(1) if extra else None)
    return found


def normalised(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
