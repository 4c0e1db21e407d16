"""Benchmark records: the figures of benchmarks/records/*.json as tables. Raw samples stay in the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from markdown import code, table

RECORDS = Path(__file__).parents[2] / "benchmarks" / "records"
HEAD = """# Benchmark records

Every figure of speed or memory that the project states comes from one of these runs. Compare within a record, not
between machines: they were made on different ones, and none of them had a GPU unless it says so. Losing results
stay in. The files in `benchmarks/records/` hold the raw samples too, and each command makes its record again.

"""
SPREAD = {"min", "median", "max", "count"}
ABOUT = ("environment", "machine", "versions", "shape", "command", "commit", "date", "benchmark", "uncommitted_changes")
MOST_ROWS = 24


def page() -> str:
    """All records, by name."""
    return HEAD + "\n".join(record(path) for path in sorted(RECORDS.glob("*.json")))


def record(path: Path) -> str:
    """One record: how it was made, then its figures."""
    held = json.loads(path.read_text(encoding="utf-8"))
    parts = [f"## {path.stem}\n", about(held)]
    parts += figures("", {key: value for key, value in held.items() if key not in ABOUT})
    return "\n".join(part for part in parts if part)


def about(held: dict[str, Any]) -> str:
    """Command, commit, machine, versions and the model's shape."""
    made = {**held.get("machine", {}), **held.get("versions", {}), **held.get("environment", held)}
    machine = [str(made.get("processor") or made.get("cpu")), f"{made.get('cores')} cores"]
    machine += [f"{made['threads']} threads"] if "threads" in made else []
    versions = [f"{name} {made[name]}" for name in ("python", "torch", "transformers") if name in made]
    rows = [
        ("command", code(str(made.get("command", "")))),
        ("made", f"{str(made.get('date', ''))[:10]}, commit {code(str(made.get('commit', ''))[:13])}"),
        ("machine", ", ".join([*machine, str(made.get("gpu") or "no GPU")])),
        ("versions", ", ".join(versions)),
    ]
    if shape := held.get("shape"):
        rows.append(("model", ", ".join(f"{key} {value}" for key, value in shape.items() if scalar(value))))
    return table(("", ""), rows)


def figures(name: str, value: Any) -> list[str]:
    """Tables for a value: scalars of one dictionary together, a row for each of several alike, deeper ones below."""
    if isinstance(value, list):
        rows = [flat(item) for item in value if isinstance(item, dict)]
        return [titled(name, wide(rows))] if rows else []
    plain = {key: item for key, item in value.items() if scalar(item) or spread(item)}
    nested = {key: item for key, item in value.items() if key not in plain}
    parts = [titled(name, table(("figure", "value"), [(words(key), number(item)) for key, item in plain.items()]))]
    if nested and all(isinstance(item, dict) and flat(item) for item in nested.values()) and name:
        return [*parts, titled("" if plain else name, wide([{"": key, **flat(item)} for key, item in nested.items()]))]
    for key, item in nested.items():
        if isinstance(item, dict | list):
            parts += figures(f"{name}, {words(key)}" if name else words(key), item)
    return parts


def flat(item: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Scalars and spreads of a dictionary and of those inside it; lists of samples are left in the file."""
    found: dict[str, Any] = {}
    for key, value in item.items():
        if scalar(value) or spread(value):
            found[before + words(key)] = value
        elif isinstance(value, dict):
            found |= flat(value, f"{before}{words(key)}: ")
    return found


def wide(rows: list[dict[str, Any]]) -> str:
    """One row each; with more columns than rows, one column each."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    if len(keys) > max(len(rows), 6):
        return table(
            ["figure", *(str(index + 1) for index in range(len(rows)))],
            [[key, *(number(row.get(key)) for row in rows)] for key in keys],
        )
    text = table(keys, [[number(row.get(key)) for key in keys] for row in rows[:MOST_ROWS]])
    return text + (f"\n({len(rows) - MOST_ROWS} more rows in the file.)\n" if len(rows) > MOST_ROWS else "")


def titled(name: str, text: str) -> str:
    return f"**{name[0].upper()}{name[1:]}**\n\n{text}" if text and name else text


def words(key: str) -> str:
    return str(key).replace("_", " ")


def scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def spread(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == SPREAD


def number(value: Any) -> str:
    """Four significant digits; a spread as its median with the range."""
    if value is None:
        return "-"
    if spread(value):
        return f"{number(value['median'])} ({number(value['min'])} to {number(value['max'])}, {value['count']} runs)"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
