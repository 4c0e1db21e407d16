"""The commands that the pages of documentation give for an engine, as lists of flags."""

from __future__ import annotations

import shlex
from pathlib import Path

PAGES = ("many-gpus.md", "vllm.md", "sglang.md")
# How a page starts an engine's server; what follows the last word is the engine's.
STARTS = {
    "vllm": ("vllm serve MODEL ", "hidden-decoding serve MODEL --engine vllm -- "),
    "sglang": (
        "python -m sglang.launch_server --model-path MODEL ",
        "hidden-decoding serve MODEL --engine sglang -- ",
        "hidden-decoding serve CHECKPOINT --engine sglang -- ",
    ),
}


def documented_flags(engine: str) -> list[list[str]]:
    """Flags of every command of that engine."""
    lines = [
        line
        for page in PAGES
        for line in (Path(__file__).parents[1] / "docs" / page).read_text(encoding="utf-8").splitlines()
    ]
    return [
        shlex.split(line.strip().removeprefix(start))
        for line in lines
        for start in STARTS[engine]
        if line.startswith(f"    {start}")
    ]
