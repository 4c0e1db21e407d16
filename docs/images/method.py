"""Draws `method.svg`: tokens, streams, positions, one Transformer, predictions from last streams.

$ python docs/images/method.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "method"  # the same file from the same code
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

TOKENS, STREAMS = ["The", "cat", "sat"], 3
COLOURS = ["#9ecae1", "#fdd0a2", "#a1d99b"]
INK = "#333333"


def box(axes, x: float, y: float, width: float, height: float, text: str, colour: str, **style) -> None:
    """A rounded box with centred text."""
    patch = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.06", fc=colour, ec=INK, lw=0.8)
    axes.add_patch(patch)
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=INK, **style)


def arrow(axes, start: tuple[float, float], end: tuple[float, float], **style) -> None:
    """A thin arrow."""
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=8, color=INK, lw=0.8, **style))


def main() -> None:
    figure, axes = plt.subplots(figsize=(9, 4.3))
    axes.set_xlim(-1.9, len(TOKENS) * STREAMS + 0.1)
    axes.set_ylim(-0.3, 5.3)
    axes.axis("off")
    for t, token in enumerate(TOKENS):
        left = t * STREAMS
        box(axes, left + 0.85, 0, 1.3, 0.55, token, "#f7f7f7", fontsize=12)
        for k in range(STREAMS):
            x = left + k + 0.1
            box(axes, x, 1.35, 0.8, 0.65, f"$E_{k + 1}$({token})", COLOURS[k], fontsize=8)
            arrow(axes, (left + 1.5, 0.57), (x + 0.4, 1.33))
            axes.text(x + 0.6, 2.25, f"{left + k}", ha="center", va="center", fontsize=7, color="#777777")
            arrow(axes, (x + 0.4, 2.02), (x + 0.4, 2.53))
        last = left + STREAMS - 0.5
        following = TOKENS[t + 1] if t + 1 < len(TOKENS) else "?"
        arrow(axes, (last, 3.37), (last, 4.33))
        box(axes, last - 0.55, 4.35, 1.1, 0.55, following, "#dadaeb", fontsize=12)
        for k in range(STREAMS - 1):
            axes.plot([left + k + 0.5], [3.55], marker="_", color="#aaaaaa", markersize=10)
    width = len(TOKENS) * STREAMS - 0.2
    box(axes, 0.1, 2.55, width, 0.8, "one Transformer, causal over all positions", "#ffffff", fontsize=12)
    for y, text in (
        (0.27, "tokens"),
        (1.67, f"{STREAMS} streams,\n{STREAMS} positions\nper token"),
        (2.95, "shared\nweights"),
        (4.62, "predictions:\nlast stream\nonly"),
    ):
        axes.text(-0.25, y, text, ha="right", va="center", fontsize=10, color=INK)
    target = Path(__file__).with_suffix(".svg")
    figure.savefig(target, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main()
