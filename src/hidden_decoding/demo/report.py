"""What the demonstration shows: a table, a picture of the curves, JSON, and what may be concluded from them.

Contract: every number comes from the runs' own records; nothing is known beforehand. Lower loss is better.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from hidden_decoding.demo.pipeline import Comparison
from hidden_decoding.demo.serving import Completion
from hidden_decoding.demo.settings import DemoSettings
from hidden_decoding.train.loop import CptResult

# The markers tell the lines apart without colour.
LINE_STYLES = (("#4269d0", "o"), ("#c2630a", "s"), ("#2f8f5b", "D"), ("#8a4fbf", "^"))


def result_of(settings: DemoSettings, comparison: Comparison) -> dict[str, Any]:
    """All figures as plain data."""
    runs = [run_figures(run) for run in comparison.continued.values()]
    control = runs[0]["final_loss"]
    for run in runs:
        run["difference_to_n1"] = run["final_loss"] - control
    return {"settings": asdict(settings), "base": run_figures(comparison.base), "runs": runs}


def run_figures(run: CptResult) -> dict[str, Any]:
    """One run's figures: counts, seconds, held-out loss at each evaluation."""
    evaluations = [record for record in run.records if record["kind"] == "evaluation"]
    start = next(record for record in run.records if record["kind"] == "start")
    return {
        "streams": run.streams,
        "parameters": start["parameters"],
        "tokens": run.tokens,
        "positions": run.positions,
        "tokens_available": start["training_tokens_available"],
        "seconds": run.seconds,
        "start_loss": evaluations[0]["heldout_loss"],
        "final_loss": evaluations[-1]["heldout_loss"],
        "start_bits_per_byte": evaluations[0]["bits_per_byte"],
        "final_bits_per_byte": evaluations[-1]["bits_per_byte"],
        "heldout_tokens": evaluations[-1]["heldout_tokens"],
        "evaluations": [
            {key: record[key] for key in ("step", "tokens", "positions", "heldout_loss", "bits_per_byte")}
            for record in evaluations
        ],
    }


def table(result: dict[str, Any]) -> str:
    """The comparison as text."""
    titles = (
        "n",
        "parameters",
        "tokens",
        "positions",
        "seconds",
        "loss before",
        "loss after",
        "bits/byte",
        "against n=1",
    )
    rows = [titles] + [
        (
            str(run["streams"]),
            f"{run['parameters'] / 1e6:.2f} M",
            f"{run['tokens']:,}",
            f"{run['positions']:,}",
            f"{run['seconds']:.1f}",
            f"{run['start_loss']:.4f}",
            f"{run['final_loss']:.4f}",
            f"{run['final_bits_per_byte']:.4f}",
            "" if run["streams"] == 1 else f"{run['difference_to_n1']:+.4f}",
        )
        for run in result["runs"]
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(titles))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def explanation(result: dict[str, Any]) -> str:
    """How to read the table, and what it does and does not show."""
    runs, base = result["runs"], result["base"]
    repeated = [run for run in [base, *runs] if run["tokens"] > run["tokens_available"]]
    text = "Some training text was read more than once." if repeated else "No training text was read twice."
    read, heldout = f"{runs[0]['tokens']:,}", f"{runs[0]['heldout_tokens']:,}"
    return (
        f"All start from one base (n = 1, {base['tokens']:,} tokens, held-out loss {base['final_loss']:.4f}) and read\n"
        f"the same fresh {read} tokens in the same order. {text} Loss is nats per\n"
        f"token on {heldout} held-out tokens, before and after; lower is better. 'Tokens' is text read, 'positions'\n"
        "what the Transformer computed: n per token. 'Seconds' is training alone.\n\n"
        f"{verdict(runs)}"
    )


def verdict(runs: list[dict[str, Any]]) -> str:
    """What came out, in words, and its limits."""
    best = min(runs, key=lambda run: float(run["final_loss"]))
    if best["streams"] == 1:
        outcome = "Here no model with more streams ended below n = 1."
    else:
        outcome = (
            f"Here n = {best['streams']} ended lowest, {-best['difference_to_n1']:.4f} nats per token below n = 1, for "
            f"{best['seconds'] / runs[0]['seconds']:.1f} times the\ntraining seconds."
        )
    return (
        f"{outcome} At this size the gain is small or absent, and one seed decides little: this shows\n"
        "that the parts work, not how good the method is. The larger evidence, with several seeds, error bars and\n"
        "equal-compute controls, stands in experiments/. A larger run: hidden-decoding demo --full (half an hour)."
    )


def completion_figures(completion: Completion) -> dict[str, Any]:
    """One answer as plain data."""
    return {**asdict(completion), "tokens_per_second": completion.tokens_per_second}


def draw_curves(result: dict[str, Any], path: Path) -> Path:
    """Held-out loss against tokens read, and below it the difference to n = 1, which the first picture hides."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 7.0), layout="constrained")
    FigureCanvasAgg(figure)
    losses, differences = figure.subplots(2, 1, sharex=True)
    control = [point["heldout_loss"] for point in result["runs"][0]["evaluations"]]
    for run, (colour, marker) in zip(result["runs"], LINE_STYLES, strict=False):
        points = run["evaluations"]
        tokens = [point["tokens"] for point in points]
        loss = [point["heldout_loss"] for point in points]
        style = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.8, "label": f"n = {run['streams']}"}
        losses.plot(tokens, loss, **style)
        differences.plot(tokens, [here - there for here, there in zip(loss, control, strict=True)], **style)
    losses.set_title("Continued training on the same fresh tokens, from one base", loc="left", fontsize=11)
    losses.set_ylabel("held-out loss (nats per token)")
    differences.set_ylabel("difference to n = 1 (nats per token)")
    differences.set_xlabel("tokens read (each is n positions to the Transformer)")
    differences.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    differences.annotate(
        "below 0: better than n = 1", (0.01, 0.03), xycoords="axes fraction", fontsize=9, color="#555555"
    )
    for axes in (losses, differences):
        axes.grid(visible=True, color="#dddddd", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    losses.legend(frameon=False)
    figure.savefig(path, dpi=130)
    return path
