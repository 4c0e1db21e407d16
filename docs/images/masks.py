"""Draws `masks.svg`: which position may attend to which, from the package's own mask.

$ python docs/images/masks.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "masks"  # the same file from the same code
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from hidden_decoding.streams import stream_mask, tokens_to_positions

TOKENS, STREAMS = ["The", "cat", "sat"], 3
COLOURS = ["#9ecae1", "#fdd0a2", "#a1d99b"]
INK, CLOSED = "#333333", "#f4f4f4"


def panel(axes: Axes, title: str, *, intra: bool) -> None:
    """One mask: rows are the positions that look, columns those looked at; last streams are framed."""
    positions = tokens_to_positions(len(TOKENS), STREAMS)
    mask = stream_mask(positions, positions, 0, torch.device("cpu"), STREAMS, intra=intra)
    for row in range(positions):
        for column in range(positions):
            colour = COLOURS[column % STREAMS] if mask[row, column] else CLOSED
            axes.add_patch(Rectangle((column, positions - 1 - row), 0.92, 0.92, fc=colour, ec="none"))
    for index, token in enumerate(TOKENS):
        start = index * STREAMS
        axes.text(start + STREAMS / 2, positions + 0.35, token, ha="center", fontsize=10, color=INK)
        axes.text(-0.4, positions - start - STREAMS / 2, token, ha="right", va="center", fontsize=10, color=INK)
        last = positions - start - STREAMS
        axes.add_patch(Rectangle((-0.06, last - 0.06), positions + 0.04, 1.04, fill=False, ec=INK, lw=1.2))
    axes.set_title(title, fontsize=10, pad=14)
    axes.set_xlim(-1.4, positions + 0.1)
    axes.set_ylim(-0.2, positions + 0.9)
    axes.set_aspect("equal")
    axes.axis("off")


def main() -> None:
    figure, axes = plt.subplots(1, 2, figsize=(8.2, 4.2))
    panel(axes[0], "as published: causal over all positions", intra=False)
    panel(axes[1], "an intra-stream layer (extension): same stream only", intra=True)
    figure.savefig(Path(__file__).with_suffix(".svg"), bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main()
