"""Every command of the guides is run, in the order of its page, with the wheel installed and small checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documents import Reader, blocks, follow_page, small_hub, unexplained

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "index.md", *sorted((DOCS / "guides").glob("*.md"))]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with small_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_says_how_it_is_run(page):
    assert not unexplained(page)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(block.runs() for block in blocks(page))], ids=lambda page: page.stem
)
def test_what_the_page_says(page, installed, hub, tmp_path):
    outputs = follow_page(Reader(directory=tmp_path, commands=installed, hub=hub), page)
    for code, out in outputs.items():
        assert out.strip() or not any(word in code for word in ("print(", "curl", "generate", "inspect", "lens")), code
