"""From what a user types as MODEL to a directory: a path stays, anything else is a hub id.

Contract: only data files are fetched (JSON, safetensors, chat templates, tokenizer text), never Python. HF_ENDPOINT,
HF_HUB_OFFLINE, HF_HOME and HF_TOKEN mean what they mean to `huggingface_hub`. First step of everything that reads a
checkpoint; `config_file` and `checkpoint` take the directory from here.

    >>> resolve_model("tencent/Sequential-Hidden-Decoding-8B-n8", revision="main")
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from hidden_decoding.errors import CheckpointError

logger = logging.getLogger(__name__)

SMALL_FILES = ["*.json", "*.jinja", "*.txt"]
WEIGHT_FILES = ["*.safetensors"]
# Some repositories keep other formats of the same model in folders; what we load lies at the top.
NESTED_WEIGHTS = ["*/*.safetensors"]


def resolve_model(model: str | Path, revision: str | None = None, *, weights: bool = True) -> Path:
    """The directory of a checkpoint: `model` itself, or a snapshot of the hub id it names at `revision`.

    With `weights=False` only the small files are fetched. Raises `CheckpointError` when it is neither.
    """
    path, text = Path(model).expanduser(), str(model)
    if text and path.is_dir():
        if revision is not None:
            logger.warning("%s is a directory: revision %r is not used", path, revision)
        return path
    if path.is_file():
        raise CheckpointError(f"{path} is a file; give the directory that holds it: {path.parent}")
    if isinstance(model, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1 or not text:
        raise CheckpointError(
            f"{text!r} is not a directory, and not a hub id (NAME or OWNER/NAME) either; look with: ls {path.parent}"
        )
    return _snapshot(text, revision, SMALL_FILES + (WEIGHT_FILES if weights else []))


def _snapshot(model: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        found = snapshot_download(model, revision=revision, allow_patterns=patterns, ignore_patterns=NESTED_WEIGHTS)
    except (HFValidationError, OSError, RuntimeError, ValueError) as error:
        # Hub, network and cache errors are of one of these families; their texts run over many lines.
        raise CheckpointError(_explained(model, revision, error)) from error
    return Path(found)


def _explained(model: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    asked = f"{model!r}" + (f" at revision {revision!r}" if revision else "")
    where = f"there is no directory of that name in {Path.cwd()}"
    if isinstance(error, HFValidationError):
        return f"{asked} is not a hub id (NAME or OWNER/NAME), and {where}; give a directory or a hub id"
    if isinstance(error, GatedRepoError):
        return f"{asked} is gated on {constants.ENDPOINT}: accept its terms there, then run: hf auth login"
    if isinstance(error, RevisionNotFoundError):
        return f"{model!r} has no revision {revision!r} on {constants.ENDPOINT}; leave --revision out for the default"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{asked} does not exist on {constants.ENDPOINT} (or is private), and {where}; check the spelling, or for "
            "a private one run: hf auth login"
        )
    if constants.HF_HUB_OFFLINE and isinstance(error, LocalEntryNotFoundError):
        return (
            f"{asked} is not (completely) in the local hub cache, {where}, and HF_HUB_OFFLINE="
            f"{os.environ.get('HF_HUB_OFFLINE', '1')} forbids to fetch it; unset HF_HUB_OFFLINE, or give a directory"
        )
    first_line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return (
        f"{asked} could not be fetched from {constants.ENDPOINT} ({type(error).__name__}: {first_line}), and {where}; "
        "check the network or HF_ENDPOINT, or give a directory"
    )
