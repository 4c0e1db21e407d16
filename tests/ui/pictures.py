"""Screenshots for the docs, made by the tests that show them when they are asked for: `make pictures`.

A test run leaves no file behind otherwise. The lens is shown on the model of HIDDEN_DECODING_PICTURES_MODEL, which the
make target has trained before.
"""

from __future__ import annotations

import os
from pathlib import Path

MODEL = os.environ.get("HIDDEN_DECODING_PICTURES_MODEL")
# What a reader of the docs sees as the model's name in the pictures of scripted answers.
NAME = "demo-n4"


def picture(page, name: str) -> None:
    """Keeps what the page shows now, where the environment names a folder for pictures."""
    if folder := os.environ.get("HIDDEN_DECODING_PICTURES"):
        page.screenshot(path=Path(folder) / f"{name}.png")
