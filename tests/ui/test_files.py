"""The page's files: complete, small, and the vendored ones exactly those of VENDORED.md."""

from __future__ import annotations

import hashlib
import re

import pytest

from hidden_decoding.errors import ConfigError
from hidden_decoding.ui.page_files import headers_for, page_file, page_paths
from hidden_decoding.ui.settings import UiConfig
from tests.contract.source import PACKAGE_DIR, ROOT

PAGE = PACKAGE_DIR / "ui" / "page"


def test_vendored_files_are_those_listed():
    rows = re.findall(r"(?m)^\| (\S+) \| .* \| ([0-9a-f]{64}) \|$", (ROOT / "VENDORED.md").read_text())
    files = {
        path.relative_to(PAGE / "vendor").as_posix(): path for path in PAGE.glob("vendor/**/*.*") if path.is_file()
    }
    assert dict(rows) == {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if name != "licences.txt"
    }


def test_the_page_is_under_a_megabyte():
    assert sum(path.stat().st_size for path in PAGE.rglob("*") if path.is_file()) < 1_000_000


def test_every_file_is_served_and_nothing_else():
    assert {path.relative_to(PAGE).as_posix() for path in PAGE.rglob("*") if path.is_file()} == page_paths()
    assert page_file("") == page_file("index.html")
    assert page_file("../server.py") is None
    assert "unsafe" not in headers_for("text/html")["content-security-policy"]


@pytest.mark.parametrize("url", ["ftp://a/v1", "nonsense", "http://", "http://a:b@c/v1", "http://a:99999/v1"])
def test_a_base_url_that_cannot_work_is_refused(url):
    with pytest.raises(ConfigError, match="--base-url"):
        UiConfig(base_url=(url,))
