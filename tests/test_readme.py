"""Runs what the README tells people to run, with the wheel installed and small checkpoints on a hub of our own.

How a block is run stands in a comment before it; see `tests/documents.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documents import Reader, blocks, follow_page, small_hub, unexplained

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with small_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


def test_every_block_says_how_it_is_run():
    assert not unexplained(README)
    assert {block.kind for block in blocks(README)} >= {"lines", "server", "python"}


@pytest.mark.timeout(1800)
def test_what_the_readme_says(installed, hub, tmp_path):
    outputs = follow_page(Reader(directory=tmp_path, commands=installed, hub=hub), README)
    said = {code.split()[1] if code.startswith("hidden") else code.split()[0]: out for code, out in outputs.items()}
    assert "bits/byte" in said["make"]
    assert list((tmp_path / "demo-out").rglob("*.png"))
    assert "8 positions" in said["inspect"]
    assert all(out.strip() for code, out in outputs.items() if "print(" in code)
    assert "$(BIN)/hidden-decoding demo" in (ROOT / "Makefile").read_text()
