"""Screenshots for the docs, made by the tests that show them: HIDDEN_DECODING_PICTURES=docs/images make test."""

from __future__ import annotations

import os
from pathlib import Path


def picture(page, name: str) -> None:
    """Keeps what the page shows now, where the environment names a folder for pictures."""
    if folder := os.environ.get("HIDDEN_DECODING_PICTURES"):
        page.screenshot(path=Path(folder) / f"{name}.png")
