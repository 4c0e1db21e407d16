"""What is released: both archives hold what they must, and the wheel works away from the checkout."""

from __future__ import annotations

import email
import re
import subprocess
import tarfile
import tomllib
import urllib.request
import zipfile

import pytest

import hidden_decoding
from tests.packaging.built import ROOT, checked, environment_with, stranger

SOURCE = ROOT / "src" / "hidden_decoding"
UNTRACKED = {"__pycache__"}


@pytest.fixture(scope="module")
def bare(built, tmp_path_factory):
    """Commands of an environment that holds our wheel and nothing else."""
    return environment_with(built.wheel, tmp_path_factory.mktemp("bare") / "env", dependencies=False)


def names_in(archive) -> set[str]:
    return set(zipfile.ZipFile(archive).namelist())


def test_wheel_holds_the_package_and_nothing_else(built):
    """Page, fonts, task packs, remote-code files, py.typed: whatever lies in the package's folder."""
    files = [path for path in SOURCE.rglob("*") if path.is_file() and not UNTRACKED & set(path.parts)]
    wanted = {str(path.relative_to(SOURCE.parent)) for path in files}
    packed = {name for name in names_in(built.wheel) if ".dist-info/" not in name}
    assert packed == wanted
    for name in ("ui/page/index.html", "ui/page/vendor/fonts/KaTeX_Main-Regular.woff2", "py.typed"):
        assert f"hidden_decoding/{name}" in packed
    assert "hidden_decoding/modeling/remote_code/modeling_qwen3_scale_seq.py" in packed


def test_wheel_is_pure_python_and_says_what_it_is(built):
    assert built.wheel.name == f"hidden_decoding-{hidden_decoding.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(built.wheel) as archive:
        place = f"hidden_decoding-{hidden_decoding.__version__}.dist-info"
        metadata = email.message_from_bytes(archive.read(f"{place}/METADATA"))
        licences = {name for name in archive.namelist() if name.startswith(f"{place}/licenses/")}
        entry_points = archive.read(f"{place}/entry_points.txt").decode()
    assert metadata["Version"] == hidden_decoding.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert {name.rpartition("/")[2] for name in licences} == {"LICENSE", "NOTICE", "licences.txt"}
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(metadata.get_all("Provides-Extra")) == set(declared["optional-dependencies"])
    for group in ("console_scripts", *declared["entry-points"]):
        assert f"[{group}]" in entry_points


def test_source_archive_can_be_built_and_tested(built):
    """The wheel was built from it; here: all that tests and pages need lies in it, and no local leavings do."""
    with tarfile.open(built.source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("Makefile", "constraints.txt", "NOTICE", "VENDORED.md", "CITATION.cff", "CHANGELOG.md"):
        assert name in names
    for folder in ("tests", "docs", "experiments", "recipes", "environments", "benchmarks"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and not UNTRACKED & set(path.parts) and path.suffix != ".pyc":
                assert str(path.relative_to(ROOT)) in names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


def test_imported_package_is_the_wheels(installed, tmp_path):
    """Without this the tests that use `installed` could pass on the checkout."""
    code = (
        "import hidden_decoding, importlib.metadata as m; print(hidden_decoding.__file__, m.version('hidden-decoding'))"
    )
    python = [str(installed / "python"), "-c", code]
    place, version = checked(python, tmp_path, env=stranger(installed)).stdout.split()
    assert place.startswith(str(installed.parent)), place
    assert version == hidden_decoding.__version__
    assert str(ROOT) not in place


def test_changelog_and_citation_agree_with_the_version():
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first
    assert first.group(1) == hidden_decoding.__version__, "the newest section of CHANGELOG.md names another version"
    assert not re.search(r"(?m)^version:", (ROOT / "CITATION.cff").read_text()), "the version stands in one place"


def test_notice_names_what_is_vendored():
    notice = (ROOT / "NOTICE").read_text().lower()
    packages = {
        line.split("|")[2].split()[0] for line in (ROOT / "VENDORED.md").read_text().splitlines() if "| " in line
    }
    for package in packages - {"package", "---"}:
        assert (
            package.rpartition("/")[0].lstrip("@").replace("highlightjs", "highlight.js") in notice or package in notice
        )


# --------------------------------------------------------------------------------------- where only the wheel exists


def run(command: list, directory, commands) -> subprocess.CompletedProcess[str]:
    command = [str(word) for word in command]
    environment = stranger(commands)
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_chat_page_needs_only_our_files(bare, tmp_path):
    command = [str(bare / "python"), "-m", "hidden_decoding.ui", "--port", "0"]
    page = subprocess.Popen(command, cwd=tmp_path, env=stranger(bare), stdout=subprocess.PIPE, text=True)
    try:
        for line in page.stdout:
            if line.startswith("chat page"):
                url = line.split()[-1]
                break
        with urllib.request.urlopen(url, timeout=30) as answer:
            html = answer.read().decode()
        linked = re.findall(r'(?:src|href)="([^"#:]+)"', html)
        assert "app.js" in " ".join(linked)
        for name in linked:
            with urllib.request.urlopen(f"{url.rstrip('/')}/{name.lstrip('./')}", timeout=30) as answer:
                assert answer.status == 200
    finally:
        page.terminate()
        page.wait(20)


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "a/b"],
        ["upcycle", "x", "--streams", "2", "--out", "y"],
        ["train", "cpt", "--model", "x", "--data", "y", "--out", "z"],
        ["generate", "x", "--prompt", "a"],
        ["lens", "x", "--prompt", "a"],
        ["serve", "x"],
        ["chat"],
        ["bench", "offline", "x"],
        ["eval", "base", "x"],
        ["export", "x", "--out", "y"],
        ["doctor"],
        ["demo"],
    ],
    ids=lambda words: words[0],
)
def test_missing_packages_are_one_line_with_the_command(bare, tmp_path, words):
    """No traceback: what is missing, and the `pip install` that brings it."""
    done = run([bare / "hidden-decoding", *words], tmp_path, bare)
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.strip().splitlines()
    assert re.fullmatch(r"error: .*(needs|installed).*pip install '?hidden-decoding(\[\w+\]')?.*", line), line


def test_help_and_version_need_only_our_files(bare, tmp_path):
    assert (
        run([bare / "hidden-decoding", "--version"], tmp_path, bare).stdout.split()[-1] == hidden_decoding.__version__
    )
    assert "ui" in run([bare / "hidden-decoding", "--help"], tmp_path, bare).stdout
