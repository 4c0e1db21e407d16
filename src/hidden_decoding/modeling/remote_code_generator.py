"""Writes the self-contained Python that lets plain transformers load our checkpoints with `trust_remote_code`.

`configuration_qwen3_scale_seq.py` comes from `configuration.py`, `modeling_qwen3_scale_seq.py` from `cache.py` and
`model.py`; both take along just the functions of `streams.py` they reach. Imports inside the package are dropped.
Contract: the result depends on these sources only; `remote_code/` holds it, and a test holds the two together.

    $ python -m hidden_decoding.modeling.remote_code_generator
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PACKAGE = "hidden_decoding"
SOURCES = Path(__file__).parent
TARGET = SOURCES / "remote_code"
CONFIGURATION = "configuration_qwen3_scale_seq"
MODELING = "modeling_qwen3_scale_seq"

HEADER = '''# SPDX-License-Identifier: Apache-2.0
# Generated from the package `hidden-decoding`; do not edit. There: make remote-code
"""{summary}

Sequential Hidden Decoding on Qwen3: n embedding tables, n positions per token, one Transformer; only the last position
of a token predicts. Self-contained, for `trust_remote_code=True`; needs torch and transformers >= 5.17.

Shapes: B batch, T tokens, N streams, P positions = N * T, D width, H query heads, K key/value heads, E head dim,
V vocabulary. Token t, stream k (from 0) sits at position t * N + k.
"""

from __future__ import annotations
'''


@dataclass(frozen=True)
class Definition:
    """A function, class or constant at the top of a module: its text and every name it mentions."""

    text: str
    mentions: frozenset[str]


@dataclass(frozen=True)
class Import:
    """One imported name: `from module import name`, or `import module` when `name` is None."""

    module: str
    name: str | None
    for_types_only: bool

    @property
    def binds(self) -> str:
        """The name it makes known."""
        return self.name or self.module


@dataclass(frozen=True)
class Source:
    """A parsed module of the package."""

    definitions: dict[str, Definition]
    imports: list[Import]


def generate() -> dict[str, str]:
    """File name -> content, for both files."""
    streams = parse(SOURCES.parent / "streams.py")
    configuration = parse(SOURCES / "configuration.py")
    cache, model = parse(SOURCES / "cache.py"), parse(SOURCES / "model.py")
    exported = [name for name in model.definitions if name.startswith("Qwen3ScaleSeq") and _is_public_model(name)]
    files = {
        CONFIGURATION: (
            "Configuration: Qwen3's own plus the number of streams.",
            [streams, configuration],
            ["Qwen3ScaleSeqConfig"],
            {},
        ),
        MODELING: (
            "Model: Qwen3 that reads n interleaved embeddings per token.",
            [streams, cache, model],
            exported,
            {CONFIGURATION: configuration},
        ),
    }
    return {
        f"{name}.py": render(summary, sources, public, siblings)
        for name, (summary, sources, public, siblings) in files.items()
    }


def _is_public_model(name: str) -> bool:
    return name.endswith(("ForCausalLM", "Model", "PreTrainedModel"))


def parse(path: Path) -> Source:
    """Top-level definitions and imports of a module."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    definitions = {}
    for node in ast.parse(text).body:
        if (name := _defined_name(node)) is not None:
            first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
            mentions = frozenset(inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name))
            definitions[name] = Definition("\n".join(lines[first - 1 : node.end_lineno]), mentions)
    return Source(definitions, list(_imports(ast.parse(text).body)))


def _defined_name(node: ast.stmt) -> str | None:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node.name
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id != "__all__":
        return node.targets[0].id
    return None


def _imports(body: Iterable[ast.stmt], *, for_types_only: bool = False) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.If):
            yield from _imports(node.body, for_types_only=True)
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            for alias in node.names:
                assert alias.asname is None, f"renamed imports are not carried over: {ast.unparse(node)}"
                yield Import(str(node.module), alias.name, for_types_only)
        elif isinstance(node, ast.Import):
            yield from (Import(alias.name, None, for_types_only) for alias in node.names)


def render(summary: str, sources: list[Source], public: list[str], siblings: dict[str, Source]) -> str:
    """One file: the last source complete, of the others what it reaches; `siblings` are generated files to import."""
    everything = {name: item for source in sources for name, item in source.definitions.items()}
    kept = reachable(sources[-1].definitions, everything)
    mentioned = {name for definition in kept.values() for name in definition.mentions} | set(public)
    imports = {item for source in sources for item in source.imports if item.binds in mentioned}
    local = {name: sibling for sibling, source in siblings.items() for name in source.definitions if name in mentioned}
    for item in imports:
        assert not item.module.startswith(PACKAGE) or item.binds in {*kept, *local}, f"{item} is not carried over"
    outside = [item for item in imports if not item.module.startswith(PACKAGE)]
    at_run_time = {item.binds for item in outside if not item.for_types_only}
    types_only = [item for item in outside if item.for_types_only and item.binds not in at_run_time]
    blocks = [HEADER.format(summary=summary)]
    blocks += [_import_block([item for item in outside if not item.for_types_only], guarded=bool(types_only))]
    blocks += [f"from .{sibling} import {name}\n" for name, sibling in sorted(local.items())]
    if types_only:
        blocks.append("if TYPE_CHECKING:\n" + "".join(f"    {line}\n" for line in _import_lines(types_only)))
    text = "\n".join(blocks)
    for definition in kept.values():
        text += f"\n\n{definition.text}\n"
    return f"{text}\n\n__all__ = {_quoted(public)}\n"


def reachable(roots: Iterable[str], everything: dict[str, Definition]) -> dict[str, Definition]:
    """The definitions that `roots` mention, directly or not, in the order of `everything`."""
    wanted, waiting = set[str](), list(roots)
    while waiting:
        name = waiting.pop()
        if name in everything and name not in wanted:
            wanted.add(name)
            waiting.extend(everything[name].mentions)
    return {name: definition for name, definition in everything.items() if name in wanted}


def _import_block(imports: list[Import], *, guarded: bool) -> str:
    if guarded:
        imports = [*imports, Import("typing", "TYPE_CHECKING", for_types_only=False)]
    groups: dict[bool, list[Import]] = defaultdict(list)
    for item in imports:
        groups[item.module.split(".")[0] not in sys.stdlib_module_names].append(item)
    return "\n".join("".join(f"{line}\n" for line in _import_lines(groups[key])) for key in sorted(groups))


def _import_lines(imports: Iterable[Import]) -> Iterator[str]:
    names = defaultdict(set)
    for item in imports:
        if item.name is None:
            yield f"import {item.module}"
        else:
            names[item.module].add(item.name)
    for module, imported in sorted(names.items()):
        # Constants, classes, functions: the order in which linters want names.
        ordered = sorted(imported, key=lambda name: (not name.isupper(), name[0].islower(), name))
        line = f"from {module} import {', '.join(ordered)}"
        if len(line) > 120:
            line = f"from {module} import (\n" + "".join(f"    {name},\n" for name in ordered) + ")"
        yield line


def _quoted(names: list[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in sorted(names)) + "]"


def main() -> None:
    """Writes the files that are checked in."""
    for name, text in generate().items():
        (TARGET / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
