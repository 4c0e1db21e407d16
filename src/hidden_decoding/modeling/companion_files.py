"""The files of a checkpoint besides weights, configuration and code: tokenizer, chat templates, defaults, terms.

Contract: copies what is there under a known name, never Python. Used by everything that writes one checkpoint from
another.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates",
    "generation_config.json",
    "LICENSE*",
    "NOTICE*",
)


def copy_companions(source: Path, target: Path) -> None:
    """Copies the companions of the checkpoint `source` into the directory `target`."""
    for path in (path for pattern in COMPANIONS for path in sorted(source.glob(pattern))):
        if path.is_dir():
            shutil.copytree(
                path, target / path.name, copy_function=shutil.copyfile, ignore=shutil.ignore_patterns("*.py")
            )
        else:
            shutil.copyfile(path, target / path.name)
