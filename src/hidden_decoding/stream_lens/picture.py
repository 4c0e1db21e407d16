"""The lens as a picture: entropy of every stream for every token of the answer, agreement, and cosine by depth.

Contract: one PNG (or what the suffix says); matplotlib is imported only here. Used by `cli.lens`.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from hidden_decoding.errors import DependencyError

if TYPE_CHECKING:
    from pathlib import Path

    from hidden_decoding.stream_lens.reading import StreamLens


def draw(found: StreamLens, path: Path) -> None:
    """Writes the picture; raises `DependencyError` without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise DependencyError(
            "the picture needs matplotlib, which is not installed; run: pip install 'hidden-decoding[train]', or use "
            "--json"
        ) from error
    count = len(found.tokens)
    figure = Figure(figsize=(max(6.0, 1.5 + 0.32 * count), 2.2 + 0.36 * found.streams + 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, height_ratios=(1 + 0.36 * found.streams, 2.6))
    by_stream = zip(*[[stream.entropy_bits for stream in token.streams] for token in found.tokens], strict=True)
    image = above.imshow(list(by_stream), aspect="auto", cmap="viridis")
    for column, token in enumerate(found.tokens):
        for row, stream in enumerate(token.streams):
            if not stream.agrees:
                above.plot(column, row, marker="x", color="white", markersize=5)
    above.set_xticks(range(count), [_shown(token.token) or str(token.token_id) for token in found.tokens])
    above.tick_params(axis="x", rotation=90)
    above.set_yticks(range(found.streams), [str(index + 1) for index in range(found.streams)])
    above.set_ylabel("stream")
    above.set_title("What each stream would have predicted: entropy (x: another token than the last stream's)")
    figure.colorbar(image, ax=above, label="bits")
    for index in range(found.streams - 1):
        below.plot([layer[index] for layer in found.cosine], marker="o", markersize=3, label=f"stream {index + 1}")
    below.set_xticks(range(len(found.layers)), [str(index) for index in range(len(found.layers))])
    below.set_xlabel("depth: 0 is the embeddings, the last one is after the final norm")
    below.set_ylabel("cosine with the last stream")
    below.grid(alpha=0.3)
    if found.streams > 1:
        below.legend(fontsize=8, ncols=min(7, found.streams - 1))
    with warnings.catch_warnings():
        # A script that no font here has is drawn as boxes; the table and the JSON have the text.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure.savefig(path, dpi=130)


def _shown(text: str) -> str:
    """A token's text as a label: whitespace seen, `$` not read as mathematics."""
    seen = "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
    return seen.replace(" ", "·").replace("$", r"\$")
