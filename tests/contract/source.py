"""The package's source as the contract tests see it: every module's name, path and syntax tree."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE_DIR = ROOT / "src" / "hidden_decoding"
# Generated from other modules, which are held to the rules in its place.
GENERATED = "hidden_decoding.modeling.remote_code."


@dataclass(frozen=True)
class Module:
    """One file below `src/hidden_decoding`."""

    name: str
    path: Path

    @functools.cached_property
    def text(self) -> str:
        """Its source."""
        return self.path.read_text(encoding="utf-8")

    @functools.cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.text, filename=str(self.path))

    def imports(self) -> Iterator[tuple[int, str, str | None]]:
        """(line, module, name or None) of every import, also inside functions and under `TYPE_CHECKING`."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield node.lineno, alias.name, None
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.path}:{node.lineno}: imports are absolute here"
                for alias in node.names:
                    yield node.lineno, str(node.module), alias.name


@functools.cache
def modules() -> dict[str, Module]:
    """All modules that people write, by name."""
    found = {}
    for path in sorted(PACKAGE_DIR.rglob("*.py")):
        parts = path.relative_to(PACKAGE_DIR.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not name.startswith(GENERATED):
            found[name] = Module(name, path)
    return found
