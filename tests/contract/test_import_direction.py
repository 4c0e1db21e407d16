"""Imports go one way, from the left to nothing on its right:

    errors <- streams <- modeling <- upcycling <- {train, engines, stream_lens}
        <- {serve, evaluate, bench, ui} <- demo <- cli

Packages of one level do not know each other. `hidden_decoding/__init__` names the public objects and imports lazily, so
it stands beside the levels; other modules take from it the version only. `cli.options` belongs to `cli`: configuration
dataclasses say in their fields what the flags need, and know nothing of argparse.
"""

from __future__ import annotations

import ast

import pytest

from tests.contract.source import Module, modules

LEVELS = [
    {"errors"},
    {"streams"},
    {"modeling"},
    {"upcycling"},  # below train, whose stages add streams
    {"train", "engines", "stream_lens"},
    {"serve", "evaluate", "bench", "ui"},
    {"demo"},
    {"cli"},
]
LEVEL_OF = {part: level for level, parts in enumerate(LEVELS) for part in parts}
# The two places that look a module up by its name: public objects, and verbs.
LAZY = {"hidden_decoding", "hidden_decoding.cli.main"}


def part_of(module_name: str) -> str:
    """`hidden_decoding.train.loop` -> train."""
    return module_name.split(".")[1]


def targets(module: Module):
    """(line, part) of each import from the package; a public object counts as an import of where it is defined."""
    public = {name: str(where) for name, where in public_objects().items()}
    for line, imported, name in module.imports():
        if imported == "hidden_decoding" and name is not None:
            if name == "__version__":
                continue
            full = f"hidden_decoding.{name}"
            yield line, part_of(full if full in modules() else public[name])
        elif imported.startswith("hidden_decoding."):
            yield line, part_of(imported)


def public_objects() -> dict[str, str]:
    """The table of `hidden_decoding/__init__`, read without importing anything."""
    for node in modules()["hidden_decoding"].tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_PUBLIC":
            return ast.literal_eval(node.value)
    raise AssertionError("hidden_decoding/__init__.py has no table _PUBLIC")


def test_every_part_has_a_level():
    parts = {part_of(name) for name in modules() if name != "hidden_decoding"}
    assert parts <= set(LEVEL_OF), f"say in LEVELS where {parts - set(LEVEL_OF)} stands"


@pytest.mark.parametrize("name", [name for name in modules() if name != "hidden_decoding"])
def test_imports_go_down(name):
    own, wrong = part_of(name), []
    for line, part in targets(modules()[name]):
        if part != own and LEVEL_OF[part] >= LEVEL_OF[own]:
            wrong.append(f"line {line}: {own} must not import {part}")
    assert not wrong, f"{name}: {'; '.join(wrong)}"


def test_nothing_is_imported_by_a_computed_name():
    """Else the test above could be walked around."""
    for name, module in modules().items():
        for node in ast.walk(module.tree):
            if not (
                isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}
            ):
                continue
            argument = node.args[0]
            foreign = isinstance(argument, ast.Constant) and not argument.value.startswith("hidden_decoding")
            assert foreign or name in LAZY, f"{name}:{node.lineno}: {ast.unparse(node)}"


def test_the_rule_can_fail(tmp_path):
    """A lazy import against the direction, hidden in a function, is seen."""
    path = tmp_path / "bad.py"
    path.write_text(
        "def f():\n    from hidden_decoding import LocalEngine, errors\n    import hidden_decoding.serve.app\n"
    )
    assert sorted(part for _, part in targets(Module("hidden_decoding.streams", path))) == [
        "engines",
        "errors",
        "serve",
    ]
