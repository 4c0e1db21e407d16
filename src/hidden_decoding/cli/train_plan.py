"""`hidden-decoding train plan`: what a run file needs in memory, hours and cost, before any GPU is rented.

$ hidden-decoding train plan -c recipes/qwen3-8b.yaml --gpus 64 --price-per-gpu-hour 2.5
$ hidden-decoding train plan -c run.yaml --model path/to/config.json --gpus 8 --json
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from hidden_decoding.cli.options import add_dataclass_arguments, from_arguments
from hidden_decoding.cli.run_file import built_sections, built_stages
from hidden_decoding.train import sft_config
from hidden_decoding.train.config import SECTIONS, CptConfig
from hidden_decoding.train.plan_settings import PlanSettings

if TYPE_CHECKING:
    from hidden_decoding.train.plan import StagePlan

# What a plan does not look at, but a complete run needs.
UNUSED = {"data": ["-"], "out": "-"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `train plan`."""
    hidden = argparse.SUPPRESS
    parser.add_argument("-v", "--verbose", action="count", default=hidden, help="more log lines on standard error")
    parser.add_argument("-q", "--quiet", action="store_true", default=hidden, help="no log lines")
    parser.add_argument("-c", "--config", metavar="RUN.yaml", required=True, help="run file of train cpt or train sft")
    parser.add_argument("--sft", action="store_true", help="it is a run file of train sft, not of train cpt")
    parser.add_argument(
        "--model", metavar="MODEL", help="instead of the run file's: a directory or config.json (no weights), a hub id"
    )
    parser.add_argument("--json", action="store_true", help="the plan as JSON on standard output")
    add_dataclass_arguments(parser, PlanSettings)


def run(args: argparse.Namespace) -> int:
    """Plans and prints; exit code 1 when a stage does not fit."""
    machine = from_arguments(PlanSettings, args)
    stages = configurations(args)

    from hidden_decoding.train.plan import plan_run

    plans = plan_run(stages, machine)
    if args.json:
        print(json.dumps({"machine": vars(machine), "stages": [plan.as_dict() for plan in plans]}, indent=2))
    else:
        print(describe(plans, machine, sft=args.sft))
    return 0 if all(plan.fits for plan in plans) else 1


def configurations(args: argparse.Namespace) -> Any:
    """The run file's stages, or the one run it describes."""
    given = argparse.Namespace(config=args.config, model=args.model, **UNUSED)
    if args.sft:
        return [sft_config.SftConfig(**built_sections(given, sft_config.SECTIONS))]
    stages = [CptConfig(**sections) for sections in built_stages(given, SECTIONS)]
    return stages or [CptConfig(**built_sections(given, SECTIONS))]


def describe(plans: list[StagePlan], machine: PlanSettings, *, sft: bool = False) -> str:
    """The plan for people."""
    lines = [
        f"{machine.gpus} GPU(s) of {machine.gpu_memory:g} GiB and {machine.peak_tflops:g} TFLOP/s",
        f"of which training reaches {machine.mfu:.0%} (--mfu: an assumption, measure yours)",
        "",
        *table(progress_rows(plans)),
        "",
        "GiB on one GPU at the peak of a step:",
        *table(memory_rows(plans, machine)),
        "",
    ]
    lines += [
        f"stage {number} does not fit: {advice(plan, sft)}" for number, plan in enumerate(plans, 1) if not plan.fits
    ]
    hours, gpu_hours = sum(plan.hours for plan in plans), sum(plan.gpu_hours for plan in plans)
    cost = [plan.cost for plan in plans if plan.cost is not None]
    total = f"in all {hours:,.1f} hours, {gpu_hours:,.0f} GPU hours" + (f", cost {sum(cost):,.0f}" if cost else "")
    return "\n".join([*lines, total])


def progress_rows(plans: list[StagePlan]) -> list[tuple[str, ...]]:
    """Counts, speed and time of each stage."""
    titles = ("stage", "n", "parameters", "tokens", "in all", "positions", "GFLOP/token", "tokens/s", "positions/s")
    rows: list[tuple[str, ...]] = [(*titles, "hours", "cost")]
    read = 0
    for number, plan in enumerate(plans, start=1):
        read += plan.tokens
        rows.append(
            (
                str(number),
                str(plan.streams),
                f"{plan.parameters / 1e9:.2f} B",
                billions(plan.tokens),
                billions(read),
                billions(plan.positions),
                f"{plan.flops_per_token / 1e9:,.1f}",
                f"{plan.tokens_per_second:,.0f}",
                f"{plan.positions_per_second:,.0f}",
                f"{plan.hours:,.1f}",
                "-" if plan.cost is None else f"{plan.cost:,.0f}",
            )
        )
    return rows


def memory_rows(plans: list[StagePlan], machine: PlanSettings) -> list[tuple[str, ...]]:
    """What the peak of each stage is made of."""
    parts = ("weights", "gradients", "optimiser", "activations", "working")
    rows: list[tuple[str, ...]] = [("stage", "n", *parts, "overhead", "total", "of", "fits")]
    for number, plan in enumerate(plans, start=1):
        values = [getattr(plan.memory, part) / 2**30 for part in parts] + [machine.gpu_overhead]
        shown = [f"{value:.2f}" for value in (*values, sum(values), machine.gpu_memory)]
        rows.append((str(number), str(plan.streams), *shown, "yes" if plan.fits else "NO"))
    return rows


def advice(plan: StagePlan, sft: bool) -> str:
    """What would make it smaller, by what is largest."""
    memory = plan.memory
    if memory.activations > memory.total / 2:
        return (
            "activations are most of it; set gradient_checkpointing, fewer sequences_per_pass or tokens_per_sequence, "
            "or attention flash_attention_2 (sdpa keeps a mask of positions x positions in every layer)"
        )
    if sft and not memory.working:  # nothing is gathered: nothing is shared
        return (
            "every GPU holds all weights, gradients and averages of the optimiser; let several GPUs share them (shard: "
            "true), or train adapters (lora_rank)"
        )
    return "weights, gradients and optimiser are most of it; take more GPUs, or optimiser muon"


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns aligned to the right, a rule below the titles."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def billions(count: int) -> str:
    """75.0 B, or 1.2 M for small runs."""
    return f"{count / 1e9:,.1f} B" if count >= 1e9 else f"{count / 1e6:,.1f} M"
