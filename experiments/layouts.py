"""Experiment C: layouts of stream-factorised attention against full attention, loss against cost.

The synthetic task and base of `synthetic.py`, at n = 4 with linear positions and copied tables; what varies is which of
the two layers attends how: `full`, `intra` (a stream sees itself only) or `local` (a window of positions). Cost counts
the query-key pairs a layer may attend to, as a share of full attention: what a kernel made for the layout would compute
(here they are masks, which save nothing yet). Every finished run is kept in `results/layouts.json`.

    $ python experiments/layouts.py --minutes 20
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import synthetic
import torch

from hidden_decoding import Qwen3ScaleSeqForCausalLM
from hidden_decoding.streams import stream_mask, tokens_to_positions

RESULTS = Path(__file__).parent / "results" / "layouts.json"
STREAMS, WINDOW = 4, 16
LAYOUTS = [
    ("full", "full"),
    ("intra", "full"),
    ("full", "intra"),
    ("intra", "intra"),
    ("local", "full"),
    ("local", "local"),
]


def laid_out(model: Qwen3ScaleSeqForCausalLM, layout: tuple[str, str]) -> Qwen3ScaleSeqForCausalLM:
    """The same weights with the layers' kinds of attention."""
    config = model.config.to_dict() | {"stream_attention": list(layout), "stream_window": WINDOW}
    changed = Qwen3ScaleSeqForCausalLM(type(model.config)(**config))
    changed.load_state_dict(model.state_dict())
    return changed


def cost(layout: tuple[str, str]) -> float:
    """Query-key pairs of all layers over those of full attention, at the task's row length."""
    positions = tokens_to_positions(synthetic.TOKENS, STREAMS)

    def pairs(kind: str) -> int:
        window = WINDOW if kind == "local" else None
        shape = (positions, positions, 0, torch.device("cpu"), STREAMS)
        return int(stream_mask(*shape, intra=kind == "intra", window=window).sum())

    return sum(pairs(kind) for kind in layout) / (len(layout) * pairs("full"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30, help="starts no run after this long")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    until = time.time() + 60 * options.minutes
    runs = json.loads(RESULTS.read_text())["runs"] if RESULTS.exists() else []
    start = synthetic.Start(streams=STREAMS)
    for seed in range(options.seeds):
        made = None
        for layout in LAYOUTS:
            name = " ".join(layout)
            if any((run["layout"], run["seed"]) == (name, seed) for run in runs) or time.time() > until:
                continue
            made = made or synthetic.make_base(seed)
            base, table, held_out = made
            began = time.process_time()
            model = laid_out(synthetic.grown(base, start, 3000 + seed), layout)
            curve = synthetic.train(model, table, synthetic.STEPS, 4000 + seed, held_out, start)
            runs.append(
                {
                    "layout": name,
                    "streams": STREAMS,
                    "seed": seed,
                    "attention_cost": cost(layout),
                    "curve": curve,
                    "final_loss": curve[-1][1],
                    "processor_seconds": time.process_time() - began,
                }
            )
            settings = {"window_positions": WINDOW, "steps": synthetic.STEPS, "torch": torch.__version__}
            part = RESULTS.with_suffix(".part")
            part.write_text(json.dumps({"settings": settings, "runs": runs}, indent=1) + "\n")
            part.replace(RESULTS)
            print({k: v for k, v in runs[-1].items() if k != "curve"}, flush=True)


if __name__ == "__main__":
    main()
