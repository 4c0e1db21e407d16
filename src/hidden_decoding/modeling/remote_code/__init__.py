"""The Python that goes beside exported weights, for `trust_remote_code`; `make remote-code` generates the two files.

Contract: `write_remote_code` copies them as they are checked in. They import nothing of this package.

    >>> write_remote_code("path/to/checkpoint")
"""

from __future__ import annotations

from pathlib import Path

GENERATED = ("configuration_qwen3_scale_seq.py", "modeling_qwen3_scale_seq.py")


def write_remote_code(directory: str | Path) -> None:
    """Puts both generated files into a checkpoint directory."""
    for name in GENERATED:
        text = (Path(__file__).parent / name).read_text(encoding="utf-8")
        (Path(directory) / name).write_text(text, encoding="utf-8")
