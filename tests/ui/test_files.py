"""The page's files: complete, small, readable, and the vendored ones exactly those of VENDORED.md."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from hidden_decoding.errors import ConfigError
from hidden_decoding.ui.page_files import headers_for, page_file, page_paths
from hidden_decoding.ui.settings import UiConfig
from tests.contract.source import PACKAGE_DIR, ROOT

PAGE = PACKAGE_DIR / "ui" / "page"
OURS = sorted(path for path in PAGE.rglob("*.*") if path.is_file() and "vendor" not in path.parts)
MODULES = [path for path in OURS if path.suffix == ".js"]
DICTIONARIES = (PAGE / "i18n" / "en.js", PAGE / "i18n" / "zh-CN.js")


def name_of(path) -> str:
    return path.relative_to(PAGE).as_posix()


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


def test_lines_fit_and_files_are_short():
    for path in OURS:
        lines = path.read_text().splitlines()
        assert max(map(len, lines)) <= 120, f"{name_of(path)} has a line of {max(map(len, lines))} characters"
        if path.suffix == ".js" and path not in DICTIONARIES:
            assert len(lines) <= 200, f"{name_of(path)} has {len(lines)} lines"


def test_every_module_says_what_it_is_for():
    for path in MODULES:
        assert path.read_text().startswith(("// ", "/** ")), f"{name_of(path)} opens without a comment"


PARSE = """
const vm = require("node:vm");
for (const [name, source] of JSON.parse(require("node:fs").readFileSync(0))) {
  if (name === "theme.js") new vm.Script(source, { filename: name });
  else new vm.SourceTextModule(source, { identifier: name });
}
"""


def test_every_module_is_javascript():
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed; the browser tests load every module anyway")
    # One process for all of them; each is parsed as `node --check` does.
    sources = json.dumps([(name_of(path), path.read_text()) for path in MODULES])
    command = [node, "--no-warnings", "--experimental-vm-modules", "-e", PARSE]
    found = subprocess.run(command, input=sources, text=True, capture_output=True, check=False)
    assert found.returncode == 0, found.stderr


class _Html(HTMLParser):
    """Collects what a page may not have under its policy, and what it asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.asked: list[str] = []
        self.keys: list[str] = []
        self._in_script = False

    def handle_starttag(self, tag, attributes):
        self._in_script = tag in ("script", "style")
        for name, value in attributes:
            if name.startswith("on") or name == "style":
                self.faults.append(f"<{tag} {name}>")
            if name in ("src", "href") and value and not value.startswith("#"):
                self.asked.append(value)
            if name.startswith("data-i18n"):
                self.keys.append(value)

    def handle_data(self, data):
        if self._in_script and data.strip():
            self.faults.append(data)
        self._in_script = False


def read_html() -> _Html:
    html = _Html()
    html.feed((PAGE / "index.html").read_text())
    return html


def test_the_page_has_no_inline_scripts_and_asks_only_for_its_own_files():
    html = read_html()
    assert html.faults == []
    assert set(html.asked) <= page_paths()
    # Under /plugins/hidden_decoding/ nothing absolute would be found.
    for path in MODULES:
        addresses = re.findall(r"""(?:from|import\()\s*["'`]([^"'`]+)""", path.read_text())
        assert all(address.startswith(("./", "../")) for address in addresses), name_of(path)
    for path in OURS:
        if path.suffix == ".css":
            assert "url(" not in path.read_text()
            assert "@import" not in path.read_text()


def keys_of(path) -> list[str]:
    return re.findall(r"(?m)^  (\w+): \"", path.read_text())


def test_languages_have_the_same_texts_and_every_text_is_used():
    english, chinese = (keys_of(path) for path in DICTIONARIES)
    assert english == chinese
    assert len(set(english)) == len(english)
    for path in DICTIONARIES:
        entries = [line for line in path.read_text().splitlines() if re.match(r"  [^/]", line)]
        assert len(entries) == len(keys_of(path)), "one text per line"
    code = "\n".join(path.read_text() for path in MODULES if path not in DICTIONARIES)
    used = set(read_html().keys) | {key for key in english if re.search(rf"""["'`]{key}["'`]""", code)}
    # Names that are put together: settings, states, examples, hints.
    used |= {key for key in english if re.match(r"state_|example|\w+Hint$", key)}
    used |= set(re.findall(r"(?m)^  (\w+): ", (PAGE / "data" / "settings.js").read_text()))
    assert set(english) - used == set()
    asked = set(re.findall(r"""\bt\(["'](\w+)["']""", code)) | set(read_html().keys)
    assert asked - set(english) == set()


def test_chinese_texts_are_chinese():
    pairs = [dict(re.findall(r"(?m)^  (\w+): \"(.*)\",$", path.read_text())) for path in DICTIONARIES]
    same = {key for key, text in pairs[0].items() if pairs[1][key] == text}
    assert same == {"top_p", "top_k", "min_p"}
    # A text keeps the places that are filled in.
    for key, text in pairs[0].items():
        assert sorted(re.findall(r"\{\d\}", text)) == sorted(re.findall(r"\{\d\}", pairs[1][key])), key
