"""`import hidden_decoding` and every `--help` load neither torch, transformers nor an engine; names stay callables."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys

import pytest

import hidden_decoding
from hidden_decoding.cli.main import VERBS
from tests.contract.source import modules

HEAVY = {"torch", "transformers", "vllm", "sglang", "accelerate", "matplotlib"}
REPORT = (
    "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})), file=sys.stderr)"
)


def python(code: str, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("COV_", "PYTEST"))}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=False,
    )


def loaded_by(code: str) -> set[str]:
    """Top-level modules in memory after the code; the code must end well."""
    done = python(f"{code}\n{REPORT}")
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_heavy_modules_are_seen():
    """Negative control: the same measurement finds torch where it is used."""
    assert {"torch", "transformers"} <= loaded_by("import hidden_decoding; hidden_decoding.Qwen3ScaleSeqConfig")


def test_base_import():
    assert not loaded_by("import hidden_decoding; dir(hidden_decoding)") & HEAVY


@pytest.mark.parametrize("name", ["errors", "engines.local.sampling_params", "engines.local.outputs", "cli.options"])
def test_light_modules(name):
    assert not loaded_by(f"import hidden_decoding.{name}") & HEAVY


@pytest.mark.parametrize(
    "arguments", [[], *([verb] for verb in VERBS)], ids=lambda arguments: " ".join(arguments) or "(none)"
)
def test_help(arguments):
    """Also the help of verbs inside verbs (`train cpt --help`)."""
    code = f"""
import argparse, contextlib, io, sys
from hidden_decoding.cli.main import build_parser, main

def walk(parser, words):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main([*words, "--help"])
    assert "usage: hidden-decoding" in out.getvalue(), (words, out.getvalue())
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and words:
            for name, inner in action.choices.items():
                walk(inner, [*words, name])

words = {arguments!r}
parser = build_parser(words[0] if words else "")
if words:
    parser = parser._subparsers._group_actions[0].choices[words[0]]
walk(parser, words)
"""
    assert not loaded_by(code) & HEAVY


def test_command_is_installed():
    done = python("import sys; from hidden_decoding.cli.main import main; sys.exit(main(sys.argv[1:]))", "--version")
    assert done.stdout.strip() == f"hidden-decoding {hidden_decoding.__version__}"
    assert done.returncode == 0


def test_public_names_resolve():
    assert sorted(hidden_decoding.__all__) == hidden_decoding.__dir__()
    for name in hidden_decoding.__all__:
        value = getattr(hidden_decoding, name)
        assert isinstance(value, str) if name == "__version__" else callable(value), name
        assert not inspect.ismodule(value)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = hidden_decoding.nonsense


def test_no_module_is_named_like_a_public_object():
    """Importing `package.name` sets the attribute `name`: a module of that name would hide the function."""
    own = {name.split(".")[1] for name in modules() if name.count(".") == 1}
    assert not own & set(hidden_decoding.__all__)


FIRST = """
import contextlib, importlib, json, os, sys, types

order = json.load(sys.stdin)
for name in order["others"]:  # once for all children
    with contextlib.suppress(Exception):
        importlib.import_module(name)
assert not any(name.startswith("hidden_decoding") for name in sys.modules)

OPTIONAL = {"vllm", "sglang", "triton"}
for name in order["names"]:
    for known in [known for known in sys.modules if known.partition(".")[0] == "hidden_decoding"]:
        del sys.modules[known]
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in OPTIONAL:
            raise
    import hidden_decoding
    for public in hidden_decoding.__all__:
        assert not isinstance(getattr(hidden_decoding, public), types.ModuleType), (name, public)
    for public in getattr(sys.modules.get(name), "__all__", ()):
        getattr(sys.modules[name], public)
"""


def test_any_submodule_can_be_imported_first():
    """Each with no other module of the package in memory: no import cycle, and public names are callables after it."""
    names = [name for name in modules() if not name.endswith("__main__")]
    used = {imported for module in modules().values() for _, imported, _ in module.imports()}
    others = sorted(name for name in used if not name.startswith(("hidden_decoding", "vllm", "sglang")))
    done = python(FIRST, given=json.dumps({"names": names, "others": others}))
    assert done.returncode == 0, done.stderr
