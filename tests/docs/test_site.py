"""The site: builds offline with warnings as errors, holds no dead link, and loads nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.conftest import missing

ROOT = Path(__file__).parents[2]
# What a browser fetches by itself, as opposed to where a reader may click.
LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src"}


class Links(HTMLParser):
    """Targets of links, what is loaded, and the anchors of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.clicked: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs) -> None:
        given = dict(attrs)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.clicked.append(given["href"])
        if (target := given.get(LOADING.get(tag, ""))) and given.get("rel") != "canonical":
            self.loaded.append(target)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[Path, Links]:
    if importlib.util.find_spec("material") is None:
        missing("mkdocs-material")
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    pages = {page: Links(page) for page in place.rglob("*.html") if page.name != "404.html"}
    assert len(pages) > 15
    return pages


def test_nothing_is_loaded_from_elsewhere(site):
    for page, links in site.items():
        foreign = [target for target in links.loaded if urlsplit(target).netloc]
        assert not foreign, f"{page.name}: {foreign}"
    styles = [style for page in site for style in page.parent.glob("assets/stylesheets/*.css")]
    assert styles
    for style in set(styles):
        assert not re.findall(r"url\(['\"]?https?:", style.read_text(encoding="utf-8"))


def test_no_link_inside_is_dead(site):
    for page, links in site.items():
        for target in (*links.clicked, *links.loaded):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or target.startswith(("#__", "javascript:")):
                continue
            there = page if not parts.path else (page.parent / unquote(parts.path)).resolve()
            assert there.exists(), f"{page.name}: {target}"
            if parts.fragment and there.suffix == ".html" and there in site:
                assert unquote(parts.fragment) in site[there].anchors, f"{page.name}: {target}"


def test_every_page_can_be_reached(site):
    [start] = [page for page in site if page.name == "index.html" and (page.parent / "assets").is_dir()]
    reached, waiting = set(), [start]
    while waiting:
        page = waiting.pop()
        if page in reached or page not in site:
            continue
        reached.add(page)
        for target in site[page].clicked:
            path = urlsplit(target).path
            if path and not urlsplit(target).netloc:
                waiting.append((page.parent / unquote(path)).resolve())
    assert reached == set(site)
