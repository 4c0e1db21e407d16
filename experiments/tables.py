"""Tables of the experiments, from the kept JSON and nothing else; `figures.py` writes them into the pages.

>>> print(tables())
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Run = dict[str, Any]


def read(name: str) -> dict[str, Any]:
    """Kept results; no runs where there are none."""
    path = HERE / "results" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"runs": []}


def by_size() -> list[dict[str, Any]]:
    """Experiment B at every size, the smallest first."""
    return [read(f"real_text{size}") for size in ("_small", "", "_large", "_gpu")]


def groups(runs: Iterable[Run], name: Callable[[Run], str]) -> dict[str, dict[int, Run]]:
    """Name -> seed -> run, in the order in which the names first came."""
    found: dict[str, dict[int, Run]] = {}
    for run in runs:
        found.setdefault(name(run), {})[run["seed"]] = run
    return found


def start_name(run: Run) -> str:
    """A start of the synthetic task in words."""
    if run["streams"] == 1:
        return "n=1"
    ways = [run["positions"], run["initialisation"], *(["progressive"] if run["progressive"] else [])]
    return f"n={run['streams']} {' '.join(ways)}"


def spread(values: list[float], digits: int = 3) -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else f"{mean} (one seed)"


def gaps(runs: dict[int, Run], control: dict[int, Run]) -> list[float]:
    """Final loss minus the control's, of every seed that both have."""
    return [run["final_loss"] - control[seed]["final_loss"] for seed, run in runs.items() if seed in control]


def paired(runs: dict[int, Run], control: dict[int, Run], digits: int = 3) -> str:
    """Final loss minus the control's of the same seed: mean ± standard error."""
    found = gaps(runs, control)
    if len(found) < 2:
        return f"{found[0]:+.{digits}f} (one seed)" if found else "-"
    return f"{statistics.fmean(found):+.{digits}f} ± {statistics.stdev(found) / len(found) ** 0.5:.{digits}f}"


def parity(run: Run, control: Run | None) -> int | None:
    """First evaluated step after the start at which the run is no worse than the control at that step."""
    theirs = dict(control["curve"]) if control else {}
    return next((step for step, loss in run["curve"] if step and step in theirs and loss <= theirs[step]), None)


def _parity(runs: dict[int, Run], control: dict[int, Run]) -> str:
    steps = [parity(run, control.get(seed)) for seed, run in runs.items()]
    reached = [step for step in steps if step is not None]
    never = len(steps) - len(reached)
    said = ", ".join(str(step) for step in sorted(reached))
    return " ".join(part for part in (said, f"(never: {never})" if never else "") if part)


def synthetic_table(results: dict[str, Any]) -> str:
    """Experiment A and D."""
    found = groups(results["runs"], start_name)
    control = found.get("n=1", {})
    lines = [
        "| start | seeds | step-0 jump | final loss | against n=1, same seed | steps to parity, each seed |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in found.items():
        jumps = [run["curve"][0][1] - run["base_loss"] for run in runs.values()]
        finals = [run["final_loss"] for run in runs.values()]
        own = name == "n=1"
        lines.append(
            f"| {name} | {len(runs)} | {spread(jumps)} | {spread(finals)} | "
            f"{'-' if own else paired(runs, control)} | {'-' if own else _parity(runs, control)} |"
        )
    return "\n".join(lines)


def starts_table(results: dict[str, Any]) -> str:
    """Experiments A and D: one way to start against another, at the same n and seed."""
    found = groups(results["runs"], start_name)
    pairs = [
        ("noise against copy", "linear noise", "linear copy"),
        ("zero-jump against copy", "linear zero-jump", "linear copy"),
        ("random against copy", "linear random", "linear copy"),
        ("mean against copy", "linear mean", "linear copy"),
        ("contiguous against linear, copy", "contiguous copy", "linear copy"),
        ("contiguous against linear, noise", "contiguous noise", "linear noise"),
        ("progressive against direct", "linear copy progressive", "linear copy"),
    ]
    lines = ["| final loss | n=2 | n=4 | n=8 |", "|---|---|---|---|"]
    for said, one, other in pairs:
        cells = [(found.get(f"n={n} {one}"), found.get(f"n={n} {other}")) for n in (2, 4, 8)]
        lines.append(f"| {said} | " + " | ".join(paired(a, b) if a and b else "-" for a, b in cells) + " |")
    return "\n".join(lines)


def step0_table(results: dict[str, Any]) -> str:
    """Experiment A, before any step: loss minus the base's, by way and number of streams."""
    found = groups(results["runs"], lambda run: f"{run['positions']} {run['initialisation']} n={run['streams']}")
    jumps = {name: spread([r["step0_loss"] - r["base_loss"] for r in runs.values()]) for name, runs in found.items()}
    ways = list(dict.fromkeys(name.rsplit(" ", 1)[0] for name in found))
    lines = ["| start | n=2 | n=4 | n=8 |", "|---|---|---|---|"]
    lines += [f"| {way} | " + " | ".join(jumps.get(f"{way} n={n}", "-") for n in (2, 4, 8)) + " |" for way in ways]
    return "\n".join(lines)


def real_table(results: dict[str, Any]) -> str:
    """Experiment B."""
    found = groups(results["runs"], lambda run: run["name"])
    control = found.get("n=1", {})
    lines = [
        "| run | seeds | parameters | backbone FLOPs | epochs | step 0 | final loss | bits per byte | against n=1 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, runs in found.items():
        every = list(runs.values())
        gap = "-" if name == "n=1" else paired(runs, control, 4)
        lines.append(
            f"| {name} | {len(runs)} | {every[0]['parameters'] / 1e6:.2f}M | {every[0]['backbone_flops']:.1e} | "
            f"{every[0]['epochs']:.2f} | "
            f"{spread([run['curve'][0][1] for run in every], 4)} | {spread([run['final_loss'] for run in every], 4)} | "
            f"{spread([run['bits_per_byte'] for run in every], 4)} | {gap} |"
        )
    return "\n".join(lines)


def gap_by_step(results: dict[str, Any], names: tuple[str, ...] = ("n=2", "n=4", "n=8")) -> str:
    """Experiment B, the trend: held-out loss minus that of n = 1 of the same seed at the same step."""
    found = groups(results["runs"], lambda run: run["name"])
    control = found.get("n=1", {})
    steps = [step for step, _ in next(iter(control.values()))["curve"]] if control else []
    lines = ["| against n=1 at step | " + " | ".join(map(str, steps)) + " |", "|---" * (len(steps) + 1) + "|"]
    for name in names:
        curves = {seed: dict(run["curve"]) for seed, run in found.get(name, {}).items() if seed in control}
        if not curves:
            continue
        theirs = {seed: dict(control[seed]["curve"]) for seed in curves}
        means = [statistics.fmean(curves[seed][step] - theirs[seed][step] for seed in curves) for step in steps]
        lines.append(f"| {name} | " + " | ".join(f"{gap:+.4f}" for gap in means) + " |")
    return "\n".join(lines)


def size_table(results: Iterable[dict[str, Any]], names: tuple[str, ...] = ("n=2", "n=4", "n=8")) -> str:
    """Experiment B, the trend with size: the last held-out loss minus that of n = 1 of the same seed."""
    head = ("weights in the backbone", "seeds of n=1", "loss of n=1", *(f"{name} against n=1" for name in names))
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for found in (groups(one["runs"], lambda run: run["name"]) for one in results if one["runs"]):
        control = found["n=1"]
        cells = [paired(found[name], control, 4) if name in found else "-" for name in names]
        weights = next(iter(control.values()))["backbone_parameters"]
        finals = spread([run["final_loss"] for run in control.values()], 4)
        lines.append(f"| {weights / 1e6:.2f}M | {len(control)} | {finals} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def layouts_table(results: dict[str, Any]) -> str:
    """Experiment C."""
    found = groups(results["runs"], lambda run: run["layout"])
    control = found.get("full full", {})
    lines = ["| layers | seeds | attention cost | final loss | against full, same seed |", "|---|---|---|---|---|"]
    for name, runs in found.items():
        finals = spread([run["final_loss"] for run in runs.values()])
        cost = next(iter(runs.values()))["attention_cost"]
        gap = "-" if name == "full full" else paired(runs, control)
        lines.append(f"| {name} | {len(runs)} | {cost:.2f} | {finals} | {gap} |")
    return "\n".join(lines)


def tables() -> str:
    """All generated text of the README."""
    synthetic, layouts, real = read("synthetic"), read("layouts"), read("real_text")
    sizes = by_size()
    books = [run for results in sizes for run in results["runs"]]
    seconds = sum(run["processor_seconds"] for run in (*synthetic["runs"], *layouts["runs"], *books))
    flops = sum(run["backbone_flops"] for run in books)
    parts = [
        (
            f"{len(synthetic['runs']) + len(layouts['runs'])} runs on the synthetic task and {len(books)} on "
            f"real text ({flops:.1e} FLOPs in their backbones) are kept, {seconds / 60:.0f} minutes of one processor."
        ),
        "### A and D: the synthetic task (nats a token)",
        synthetic_table(synthetic),
        "### A and D: ways to start compared, the same n and seed (nats a token; below 0 the first is better)",
        starts_table(synthetic),
        "### A: step-0 jump of every start (nats a token over the base, before any training)",
        step0_table(read("synthetic_step0")),
        "### B: real text (nats a token)",
        real_table(real),
        gap_by_step(real),
        "### B: the trend with size (nats a token)",
        size_table(sizes),
        "### C: layouts of stream-factorised attention, n=4 on the synthetic task (nats a token)",
        layouts_table(layouts),
    ]
    return "\n\n".join(parts)


def summary() -> str:
    """Experiment B in short: compute, parameters and final loss against n = 1 of the same seed."""
    found = groups(read("real_text")["runs"], lambda run: run["name"])
    control = found["n=1"]
    base = next(iter(control.values()))
    lines = ["| after n = 1's tokens | compute | parameters | nats a token against n = 1 |", "|---|---|---|---|"]
    for name in sorted(set(found) - {"n=1"}, key=lambda name: ("," in name, list(found).index(name))):
        run = next(iter(found[name].values()))
        compute, size = (run[key] / base[key] for key in ("backbone_flops", "parameters"))
        said = name.replace("n=1, ", "one stream, ")
        lines.append(f"| {said} | {compute:.1f}x | {size:.1f}x | {paired(found[name], control, 4)} |")
    return "\n".join(lines)
