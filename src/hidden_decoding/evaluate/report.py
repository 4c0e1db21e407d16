"""Results of any number of models as one table: ours with intervals, differences between models, the published columns.

Contract: reads results.json files, computes nothing anew but paired differences; `Report` is plain data that the
Markdown and HTML pages, the screen and --json all show. Runs of the same pack only stand side by side.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hidden_decoding.errors import ConfigError
from hidden_decoding.evaluate.results import percent
from hidden_decoding.evaluate.statistics import difference

ROLES = {"control": " (n = 1 control)", "compare": "", "model": ""}


@dataclass(frozen=True, kw_only=True)
class Report:
    """One table (base or instruct): models in columns, suites in rows. `suites[name][model]` is a suite's result."""

    table: str
    models: list[dict[str, Any]]
    names: list[str]
    suites: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """All of it but the scores of single questions, which stand in each results.json."""
        rows = [
            {
                **row,
                "results": [result and {k: v for k, v in result.items() if k != "scores"} for result in row["results"]],
            }
            for row in self.suites
        ]
        models = [{key: value for key, value in model.items() if key != "suites"} for model in self.models]
        return {"table": self.table, "names": self.names, "models": models, "suites": rows}


def find_results(directories: Sequence[Path]) -> list[dict[str, Any]]:
    """All results.json in the directories and one level below; `ConfigError` naming what holds none."""
    found: dict[Path, dict[str, Any]] = {}
    for directory in directories:
        if not directory.is_dir():
            raise ConfigError(f"{str(directory)!r} is not a directory; give the --out of an evaluation")
        paths = sorted({*directory.glob("results.json"), *directory.glob("*/results.json")})
        if not paths:
            unfinished = any(directory.glob("**/run.json"))
            hint = (
                "its run has not ended; run the same command again to go on" if unfinished else "give an --out of eval"
            )
            raise ConfigError(f"{directory} holds no results.json; {hint}")
        for path in paths:
            found[path.resolve()] = _read(path)
    return list(found.values())


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != 1 or not isinstance(content["suites"], list):
            raise KeyError("schema")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not a result of this version ({type(error).__name__}: {error})") from error
    return dict(content)


def make_reports(results: Sequence[dict[str, Any]]) -> list[Report]:
    """One report per table; the first model of each is the one the others are compared with."""
    tables = dict.fromkeys(result["table"] for result in results)
    return [_report(table, [result for result in results if result["table"] == table]) for table in tables]


def _report(table: str, models: list[dict[str, Any]]) -> Report:
    order = {"model": 0, "compare": 1, "control": 2}
    models = sorted(models, key=lambda model: order.get(model["role"], 0))
    packs = {model["pack"]["sha256"] for model in models}
    if len(packs) > 1:
        raise ConfigError(
            f"these runs of the {table} table asked different questions (pack versions "
            f"{sorted({model['pack']['version'] for model in models})}, hashes {sorted(pack[:8] for pack in packs)}); "
            "report them apart"
        )
    by_name = [{suite["name"]: suite for suite in model["suites"]} for model in models]
    rows = []
    for name in dict.fromkeys(name for suites in by_name for name in suites):
        results = [suites.get(name) for suites in by_name]
        head = next(result for result in results if result is not None)
        rows.append(
            {
                "name": name,
                "title": head["title"],
                "about": head["about"],
                "notes": head["notes"],
                "results": results,
                "differences": [_difference(results[0], result) for result in results],
                **_published(results),
            }
        )
    return Report(table=table, models=models, names=_names(models), suites=rows)


def _published(results: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """The published figures, when every model that ran the suite ran it as published."""
    ran = [result for result in results if result and result["status"] == "done"]
    against = next((result["no_published_because"] for result in ran if not result["published"]), None)
    return {
        "published": ran[0]["published"] if ran and against is None else None,
        "no_published_because": against,
    }


def _difference(first: dict[str, Any] | None, other: dict[str, Any] | None) -> dict[str, float] | None:
    """Of the questions both answered; None for the first model itself."""
    if not first or not other or other is first or "scores" not in first or "scores" not in other:
        return None
    found = difference(first["scores"], other["scores"])
    return None if found is None else percent(found)


def _names(models: Sequence[dict[str, Any]]) -> list[str]:
    """Headings; models of one name are told apart by a number."""
    names: list[str] = []
    for model in models:
        role = ROLES.get(model["role"], "") or (" (n = 1)" if model["streams"] == 1 else "")
        name = f"{model['model']}{role}"
        count = sum(other == name or other.startswith(f"{name} #") for other in names)
        names.append(f"{name} #{count + 1}" if count else name)
    return names


# -------------------------------------------------------------------------------------------------- shared by the pages


def figure(result: dict[str, Any] | None) -> str:
    """`61.2 [59.0, 63.4]`, or why there is none."""
    if result is None:
        return ""
    if result["status"] != "done":
        return "not run"
    score = result["score"]
    return f"{score['mean']:.2f} [{score['low']:.1f}, {score['high']:.1f}]"


def judged_figure(result: dict[str, Any] | None) -> str:
    """The judge's accuracy, and how often it disagrees with the rules."""
    if not result or result["status"] != "done" or not result.get("judged"):
        return ""
    judged = result["judged"]
    return f"{judged['score']['mean']:.2f} ({judged['disagreements']} differ)"


def change(found: dict[str, float] | None) -> str:
    """`+1.3 [-0.4, +3.0]` against the first model."""
    return f"{found['mean']:+.2f} [{found['low']:+.1f}, {found['high']:+.1f}]" if found else ""


def remarks(report: Report) -> list[str]:
    """Everything a reader must know beside the figures, one line each."""
    lines = []
    if all(model["judge"] is None for model in report.models):
        lines.append("No judge was asked (--judge-url): all figures are by rules.")
    for row in report.suites:
        if row["no_published_because"]:
            lines.append(f"{row['title']}: no published figures beside it: {row['no_published_because']}.")
        for name, result in zip(report.names, row["results"], strict=True):
            lines += [f"{row['title']}, {name}: {line}" for line in _result_remarks(result)]
        lines += [f"{row['title']}: {note}" for note in row["notes"]]
    return list(dict.fromkeys(lines))


def _result_remarks(result: dict[str, Any] | None) -> list[str]:
    if result is None:
        return []
    if result["status"] != "done":
        return [f"not run: {result['reason']}"]
    lines = []
    data = result["data"]
    if data["published"] and not data["hash_known"]:
        lines.append("the number of questions is the published one; their content could not be checked.")
    if result["failed"]:
        lines.append(f"{result['failed']} answers failed and count as wrong ({result['first_failure']}).")
    if result["cut_short"]:
        lines.append(f"{result['cut_short']} answers ended at their limit of tokens.")
    if result["shortened_prompts"]:
        lines.append(f"{result['shortened_prompts']} prompts were longer than the context and lost their beginning.")
    if spread := result["spread"]:
        lines.append(
            f"over {spread['samples']} samples: {spread['min']:.2f} to {spread['max']:.2f}, standard deviation "
            f"{spread['deviation']:.2f}."
        )
    return lines
