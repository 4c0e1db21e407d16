"""What pages say and the code decides: generated pages, pictures, figures, file names, commands and their flags."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hidden_decoding.cli.main import VERBS, build_parser

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "hidden_decoding"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
PICTURES = ("method", "masks", "cost")


def test_generated_pages_are_current():
    command = [sys.executable, str(DOCS / "generators"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def cost():
    """`docs/images/cost.py`, loaded where it lies."""
    return load(DOCS / "images" / "cost.py")


def load(path: Path):
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_what_their_code_draws(name, tmp_path):
    program = tmp_path / f"{name}.py"
    program.write_text((DOCS / "images" / f"{name}.py").read_text(encoding="utf-8"), encoding="utf-8")
    subprocess.run([sys.executable, str(program)], check=True, capture_output=True, cwd=tmp_path)
    drawn = (tmp_path / f"{name}.svg").read_bytes()
    assert drawn == (DOCS / "images" / f"{name}.svg").read_bytes(), f"run: python docs/images/{name}.py"


def test_costs_in_the_table_are_the_code_s(cost):
    page = (DOCS / "method.md").read_text(encoding="utf-8")
    rows = [
        line.split("|")[2:-1] for line in page.splitlines() if re.match(r"\| (parameters|weights|KV|operations)", line)
    ]
    written = [[float(cell.replace(",", "")) for cell in row] for row in rows]
    computed = [list(column) for column in zip(*cost.costs().values(), strict=True)]
    assert len(written) == len(computed) == 4
    for row, figures in zip(written, computed, strict=True):
        assert row == pytest.approx(figures, abs=0.06, rel=1e-3)


def test_memory_in_the_guides_is_the_code_s(cost):
    kv = {n: cost.published(n)[0].kv_bytes_per_token for n in (1, 8)}
    tables = 7 * cost.published(1)[0].parameters.input_embeddings * 2
    small = " ".join((DOCS / "guides" / "small-machine.md").read_text(encoding="utf-8").split())
    assert f"holds {2 * 2**30 // kv[1]:,} tokens at n = 1, {2 * 2**30 // kv[8]:,} at n = 8" in small
    assert f"this is {tables / 1e9:.1f} of the 25.1 GB" in small
    assert f"about {16 * 2**30 // kv[8] // 100 * 100:,} tokens" in (DOCS / "method.md").read_text(encoding="utf-8")
    served = (DOCS / "guides" / "serve-a-checkpoint.md").read_text(encoding="utf-8")
    for n in (2, 4, 8):
        assert f"-n{n}` | {n} | {cost.published(n)[0].weight_bytes / 1e9:.1f} GB |" in served


@pytest.mark.parametrize("page", ["life-of-a-request", "life-of-a-training-batch"])
def test_lives_name_files_and_names_that_exist(page):
    """Eight steps; each `path.py` exists, and each (`name`) after one is defined in it."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^(\d)\. ", text) == list("12345678")
    named = re.findall(r"`([\w/]+\.py)`(?:,? \(((?:`\w+`(?:, )?)+)\)|: (`\w+`))?", text)
    assert len(named) >= 10
    for file, in_brackets, after_colon in named:
        code = (SOURCE / file).read_text(encoding="utf-8")
        for name in re.findall(r"\w+", in_brackets or after_colon):
            assert re.search(rf"(?m)^\s*(async )?(def|class) {name}\b", code), f"{file} defines no {name}"


# -------------------------------------------------------------------------------------------------------- commands


def commands_in(page: Path) -> list[str]:
    """Commands of ours in a page's code: fenced, indented, or in a line of text when it has more than a verb."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in re.findall(r"(?m)^(?: {4,}|)(?:\w+=\S+ )*hidden-decoding .*$", text)]
    return lines + re.findall(r"`(?:\w+=\S+ )*(hidden-decoding [^`\n]+)`", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_verbs_and_flags_exist(page):
    for command in commands_in(page):
        words = shlex.split(command.partition(" #")[0].replace("…", "").replace("...", ""))
        words = words[words.index("hidden-decoding") + 1 :]
        if "--" in words:
            words = words[: words.index("--")]
        if not words or words[0] in ("VERB", "--version", "--help") or words[0].startswith(("-", "<")):
            continue
        assert words[0] in VERBS, f"{page.name}: {command}"
        known = flags_of(words[0], words[1:])
        given = {word.partition("=")[0] for word in words[1:] if word.startswith("--")}
        assert given <= known, f"{page.name}: {command}: there is no {', '.join(sorted(given - known))}"


def flags_of(verb: str, words: list[str]) -> set[str]:
    """All flags of a verb, or of the verb inside it that the words name."""
    parser = build_parser(verb)._subparsers._group_actions[0].choices[verb]
    while parser._subparsers and words:
        parser, words = parser._subparsers._group_actions[0].choices.get(words[0], parser), words[1:]
    return {flag for action in parser._actions for flag in action.option_strings}


def test_defaults_that_pages_state():
    from hidden_decoding.serve.settings import ServeConfig
    from hidden_decoding.ui.settings import DEFAULT_BASE_URL, UiConfig

    original = (DOCS / "guides" / "original-readme.md").read_text(encoding="utf-8")
    assert f"the default is {ServeConfig().port} |" in original
    assert f"the default is {ServeConfig().host}, this machine only" in original
    assert DEFAULT_BASE_URL in original
    assert f"on port {UiConfig().port}" in original
    assert f"{ServeConfig().drain_seconds:.0f} seconds at most" in (DOCS / "guides" / "containers.md").read_text()
