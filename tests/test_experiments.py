"""The experiments' page says what the kept JSON says."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def script(name: str):
    """The module of an experiment, which is a script and no part of the package."""
    spec = importlib.util.spec_from_file_location(f"experiment_{name}", EXPERIMENTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


def test_numbers_on_the_page_are_those_of_the_results() -> None:
    module = script("figures")
    for page, made in {
        EXPERIMENTS / "README.md": module.tables(),
        EXPERIMENTS.parent / "README.md": module.summary(),
    }.items():
        generated = page.read_text(encoding="utf-8").split(module.BEGIN)[1].split(module.END)[0].strip()
        assert generated == made, f"{page}: run python experiments/figures.py"


def test_paired_gaps_and_parity_by_hand() -> None:
    module = script("figures")
    control = {s: {"final_loss": 1.0, "curve": [[0, 2.0], [10, 1.5], [20, 1.0]]} for s in (0, 1)}
    runs = {
        0: {"final_loss": 0.8, "curve": [[0, 3.0], [10, 1.6], [20, 0.8]]},
        1: {"final_loss": 1.2, "curve": [[0, 1.0], [10, 1.6], [20, 1.2]]},
    }
    assert module.paired(runs, control) == "+0.000 ± 0.200"
    assert [module.parity(runs[s], control[s]) for s in (0, 1)] == [20, None]


def test_kept_runs_are_whole_and_counted_once() -> None:
    for path in sorted((EXPERIMENTS / "results").glob("*.json")):
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        keys = [
            json.dumps({k: v for k, v in run.items() if isinstance(v, str | bool) or k in ("streams", "seed")})
            for run in runs
        ]
        assert runs
        assert len(set(keys)) == len(keys)
        trained = [run for run in runs if "curve" in run]
        assert all(run["curve"][-1][1] == run["final_loss"] for run in trained)


def test_kept_runs_on_real_text_are_those_the_script_makes() -> None:
    module = script("real_text")
    known = {variant.name for tier in (*module.STREAMS, *module.CONTROLS) for variant in tier}
    for name, size in module.SIZES.items():
        path = EXPERIMENTS / "results" / ("real_text.json" if name == "medium" else f"real_text_{name}.json")
        if name == "medium" or path.exists():
            kept = json.loads(path.read_text(encoding="utf-8"))
            assert kept["size"] == asdict(size), "the script would refuse to go on with its own results"
            assert {run["name"] for run in kept["runs"]} <= known
