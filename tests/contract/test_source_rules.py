"""House rules a reader relies on: files stay short, the version stands once, only `streams` multiplies by n."""

from __future__ import annotations

import ast
import importlib.metadata
import re
from collections.abc import Iterator

import pytest

import hidden_decoding
from tests.contract.source import ROOT, Module, modules

MOST_LINES = 350
ARITHMETIC = (ast.Mult, ast.FloorDiv, ast.Div, ast.Mod)
STREAM_NAMES = {"num_streams", "n_streams", "streams", "growth", "source_streams", "target_streams"}


@pytest.mark.parametrize("name", modules())
def test_files_stay_short(name):
    lines = len(modules()[name].text.splitlines())
    assert lines <= MOST_LINES, f"{name} has {lines} lines; split it by idea (most: {MOST_LINES})"


@pytest.mark.parametrize("name", modules())
def test_every_module_says_what_it_is_for(name):
    text = ast.get_docstring(modules()[name].tree)
    assert text, f"{name} has no docstring"
    assert len(text.split()) >= 5, f"{name}: {text!r} says too little"


def test_version_stands_in_one_place():
    literals = [
        name
        for name, module in modules().items()
        if re.search(rf"""["']{re.escape(hidden_decoding.__version__)}["']""", module.text)
    ]
    assert literals == ["hidden_decoding"]
    assert not re.search(r"(?m)^version\s*=\s*\"", (ROOT / "pyproject.toml").read_text())
    assert importlib.metadata.version("hidden-decoding") == hidden_decoding.__version__


# ------------------------------------------------------------------------------------------- only streams multiplies


def counts_streams(node: ast.AST, bound: set[str]) -> bool:
    """Whether the expression itself is a number of streams: `n` bound to one, `num_streams`, `config.num_streams`."""
    if isinstance(node, ast.Name):
        return node.id in bound or node.id in STREAM_NAMES
    if isinstance(node, ast.Attribute):
        return node.attr in STREAM_NAMES
    return isinstance(node, ast.Call) and ast.unparse(node.func).endswith("streams_of")


def names_bound_to_streams(tree: ast.AST) -> set[str]:
    """Names assigned from a number of streams anywhere in the file (`n = config.num_streams`)."""
    bound: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if counts_streams(node.value, bound):
                bound |= {target.id for target in targets if isinstance(target, ast.Name)}
    return bound


def stream_arithmetic(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, code) of each product, quotient, remainder, stride or repetition by a number of streams."""
    bound = names_bound_to_streams(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ARITHMETIC):
            text = isinstance(node.left, ast.Constant | ast.JoinedStr) and not isinstance(
                getattr(node.left, "value", 0), int
            )
            found = not text and (counts_streams(node.left, bound) or counts_streams(node.right, bound))
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ARITHMETIC):
            found = counts_streams(node.value, bound)
        elif isinstance(node, ast.Slice):
            found = node.step is not None and counts_streams(node.step, bound)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func).split(".")[-1]
            found = called in {"divmod", "repeat_interleave"} and any(counts_streams(a, bound) for a in node.args)
        else:
            continue
        if found:
            yield node.lineno, ast.unparse(node)


@pytest.mark.parametrize("name", [name for name in modules() if name != "hidden_decoding.streams"])
def test_only_streams_turns_tokens_into_positions(name):
    found = [f"line {line}: {code}" for line, code in stream_arithmetic(modules()[name].tree)]
    assert not found, f"{name} computes with the number of streams; streams.py has (or gets) a function: {found}"


def test_streams_itself_would_be_found():
    """Negative control on the one module that may."""
    found = [code for _, code in stream_arithmetic(modules()["hidden_decoding.streams"].tree)]
    assert {"tokens * num_streams", "positions // num_streams", "divmod(positions, num_streams)"} <= set(found)


@pytest.mark.parametrize(
    "code",
    [
        "n = model.config.num_streams\nrows = tokens * n",
        "rows = self.num_streams * tokens",
        "h[:, config.num_streams - 1 :: config.num_streams]",
        "length //= num_streams",
        "n = streams_of(times)\nmask.repeat_interleave(n, dim=1)",
    ],
)
def test_arithmetic_by_other_spellings_would_be_found(tmp_path, code):
    path = tmp_path / "bad.py"
    path.write_text(code)
    assert list(stream_arithmetic(Module("hidden_decoding.bad", path).tree))


@pytest.mark.parametrize("code", ["n = len(items)\nrows = n * 2", "'%d streams' % num_streams", "k = num_streams - 1"])
def test_other_arithmetic_is_free(tmp_path, code):
    path = tmp_path / "good.py"
    path.write_text(code)
    assert not list(stream_arithmetic(Module("hidden_decoding.good", path).tree))
