"""A report as Markdown, as one self-contained HTML page, and as the table on the screen.

Contract: pure functions of a `Report`; they format, and say nothing that the JSON does not hold.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hidden_decoding.evaluate.report import change, figure, judged_figure, remarks

if TYPE_CHECKING:
    from hidden_decoding.evaluate.report import Report

Table = tuple[list[str], list[list[str]]]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #1b1f24; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid #d8dee4; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #8c959f; }
td.published { color: #57606a; }
.bar { display: block; position: relative; height: 4px; background: #eaeef2; margin-top: 3px; min-width: 6rem; }
.bar i { position: absolute; top: 0; height: 4px; background: #0969da; }
small { color: #57606a; }
@media (prefers-color-scheme: dark) {
  body { background: #0d1117; color: #e6edf3; } th, td { border-color: #30363d; } .bar { background: #21262d; }
  td.published, small { color: #8b949e; }
}
"""


def figures_table(report: Report) -> Table:
    """Suites in rows: each model with its interval, differences, the judge, the published columns."""
    columns = report.models[0]["columns"]
    several = len(report.names) > 1
    judged = any(judged_figure(result) for row in report.suites for result in row["results"])
    head = ["suite", *report.names]
    head += [f"{name} minus {report.names[0]}" for name in report.names[1:]] if several else []
    head += [f"{name}, judged" for name in report.names] if judged else []
    head += [f"{column} (published)" for column in columns]
    rows = []
    for row in report.suites:
        cells = [f"{row['title']} ({row['about']})", *(figure(result) for result in row["results"])]
        cells += [change(found) for found in row["differences"][1:]] if several else []
        cells += [judged_figure(result) for result in row["results"]] if judged else []
        published = row["published"] or {}
        cells += [f"{published[column]:g}" if column in published else "-" for column in columns]
        rows.append(cells)
    return head, rows


def cost_table(report: Report) -> Table:
    """Tokens, positions, seconds and prefix-cache hits, per model and suite."""
    head = [
        "model",
        "suite",
        "requests",
        "prompt tokens",
        "from the cache",
        "answer tokens",
        "positions computed",
        "seconds",
    ]
    rows = []
    for index, name in enumerate(report.names):
        for row in report.suites:
            result = row["results"][index]
            if result and result["status"] == "done":
                rows.append([name, row["title"], *_cost_cells(result["cost"])])
    return head, rows


def _cost_cells(cost: dict[str, Any]) -> list[str]:
    share = cost["cached_tokens"] / cost["prompt_tokens"] if cost["prompt_tokens"] else 0.0
    positions = cost["computed_positions"]
    return [
        f"{cost['requests']:,}",
        f"{cost['prompt_tokens']:,}",
        f"{cost['cached_tokens']:,} ({share:.0%})",
        f"{cost['answer_tokens']:,}",
        "unknown" if positions is None else f"{positions:,}",
        f"{cost['seconds']:,.1f}",
    ]


def data_table(report: Report) -> Table:
    """What was asked: version, number and hash of each set."""
    rows = []
    for row in report.suites:
        result = next((result for result in row["results"] if result and result["status"] == "done"), None)
        if result:
            data = result["data"]
            rows.append([row["title"], data["version"], f"{data['questions']:,}", data["source"], data["sha256"][:16]])
    return ["suite", "version", "questions in the set", "from", "SHA-256"], rows


def run_lines(report: Report) -> list[str]:
    """How each model was run."""
    lines = []
    for name, model in zip(report.names, report.models, strict=True):
        streams = "unknown" if model["streams"] is None else model["streams"]
        judge = model["judge"]
        lines.append(
            f"{name}: n = {streams}; {model['engine'].get('engine')}; lm-evaluation-harness {model['harness']}; pack "
            f"{model['table']} v{model['pack']['version']} ({model['pack']['sha256'][:12]}); "
            f"sampling {model['sampling']}; "
            f"thinking {'on' if model['settings']['thinking'] else 'off'}; seed {model['settings']['seed']}; judge "
            + (f"{judge['model']}, prompts v{judge['prompt_version']}" if judge else "none")
        )
    return lines


def harness_table(report: Report) -> Table:
    """What the harness's own filters and metrics say of the same answers."""
    rows = []
    for index, name in enumerate(report.names):
        for row in report.suites:
            result = row["results"][index]
            for metric, value in ((result or {}).get("harness") or {}).items():
                rows.append([name, row["title"], metric, f"{value:.2f}"])
    return ["model", "suite", "metric", "percent"], rows


def disagreements(report: Report) -> Table:
    """Where judge and rules differ."""
    rows = []
    for index, name in enumerate(report.names):
        for row in report.suites:
            result = row["results"][index]
            for one in ((result or {}).get("judged") or {}).get("disagreement_list", []):
                judge = {True: "right", False: "wrong", None: "no verdict"}[one["judge"]]
                where = f"{one['task']} {one['doc']}.{one['sample']}"
                rows.append(
                    [
                        name,
                        where,
                        "right" if one["rules"] else "wrong",
                        judge,
                        _short(one["gold"]),
                        _short(one["extracted"]),
                    ]
                )
    return ["model", "question", "rules", "judge", "reference", "taken from the answer"], rows


def _short(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= 60 else line[:57] + "..."


# ------------------------------------------------------------------------------------------------------------- pages


def markdown(reports: Sequence[Report]) -> str:
    """The whole report as Markdown."""
    parts = ["# Evaluation", "", "Percent, with 95% intervals in brackets.", ""]
    for report in reports:
        parts += [f"## {report.table}", "", *_markdown_table(figures_table(report)), ""]
        parts += [f"- {_escaped(line)}" for line in remarks(report)]
        for title, table in _sections(report):
            parts += ["", f"### {title}", "", *_markdown_table(table)]
        parts += ["", "### Runs", "", *(f"- {_escaped(line)}" for line in run_lines(report)), ""]
    return "\n".join(parts)


def _sections(report: Report) -> list[tuple[str, Table]]:
    sections = [
        ("Data", data_table(report)),
        ("Cost", cost_table(report)),
        ("The harness's own metrics", harness_table(report)),
        ("Judge and rules differ", disagreements(report)),
    ]
    return [(title, table) for title, table in sections if table[1]]


def _markdown_table(table: Table) -> list[str]:
    head, rows = table
    lines = ["| " + " | ".join(map(_escaped, head)) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(map(_escaped, row)) + " |" for row in rows]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def html_page(reports: Sequence[Report]) -> str:
    """The whole report as one page without scripts or outside files."""
    parts = ["<h1>Evaluation</h1><p>Percent, with 95% intervals in brackets and as bars from 0 to 100.</p>"]
    for report in reports:
        parts.append(f"<h2>{html.escape(report.table)}</h2>{_figures_html(report)}<ul>")
        parts += [f"<li>{html.escape(line)}</li>" for line in remarks(report)]
        parts.append("</ul>")
        parts += [f"<h3>{title}</h3>{_html_table(table)}" for title, table in _sections(report)]
        parts.append(
            "<h3>Runs</h3><ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in run_lines(report)) + "</ul>"
        )
    head = "<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>Evaluation</title>"
    style = f"<style>{STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}{style}</head><body>{''.join(parts)}</body></html>\n"


def _figures_html(report: Report) -> str:
    head, rows = figures_table(report)
    first_published = len(head) - len(report.models[0]["columns"])
    lines = []
    for row, cells in zip(report.suites, rows, strict=True):
        shown = [f"<td>{html.escape(row['title'])}<br><small>{html.escape(row['about'])}</small></td>"]
        for index, cell in enumerate(cells[1:], 1):
            bar = _bar(row["results"][index - 1]) if index <= len(report.names) else ""
            kind = " class='published'" if index >= first_published else ""
            shown.append(f"<td{kind}>{html.escape(cell)}{bar}</td>")
        lines.append("<tr>" + "".join(shown) + "</tr>")
    heads = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _bar(result: dict[str, Any] | None) -> str:
    if not result or result["status"] != "done":
        return ""
    score = result["score"]
    return (
        f"<span class='bar'><i style='left:{score['low']:.1f}%;width:{score['high'] - score['low']:.1f}%'></i></span>"
    )


def _html_table(table: Table) -> str:
    head, rows = table
    heads = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def screen(report: Report) -> str:
    """The table for a terminal, and the remarks under it."""
    head, rows = figures_table(report)
    rows = [[row["title"], *cells[1:]] for row, cells in zip(report.suites, rows, strict=True)]
    head = [cell.replace(" (published)", "*") for cell in head]
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(widths[0]) if i == 0 else cell.rjust(widths[i]) for i, cell in enumerate(row))
        for row in [head, *rows]
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(
        [f"{report.table}: percent [95% interval]; * published", *lines, "", *(f"- {line}" for line in remarks(report))]
    )
