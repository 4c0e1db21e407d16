"""`hidden-decoding inspect`: what a checkpoint or a bare config is, and with --plan whether it fits on given GPUs.

$ hidden-decoding inspect path/to/checkpoint --json
$ hidden-decoding inspect path/to/config.json --plan --gpus 1 --gpu-memory 80
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from hidden_decoding.cli.options import add_dataclass_arguments, add_trust_remote_code, from_arguments
from hidden_decoding.modeling.memory_plan import GIB, MemoryPlan, MemoryPlanConfig

if TYPE_CHECKING:
    import argparse

    from hidden_decoding.modeling.inspection import Inspection


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `inspect`."""
    parser.add_argument(
        "model", metavar="MODEL_OR_CONFIG", help="checkpoint directory, directory with a config.json, or hub id"
    )
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    add_trust_remote_code(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--plan", action="store_true", help="add a memory plan (needs --gpu-memory)")
    add_dataclass_arguments(parser, MemoryPlanConfig)


def run(args: argparse.Namespace) -> int:
    """Prints the report; 0 also when tensors are missing, for this verb reports."""
    machine = from_arguments(MemoryPlanConfig, args)

    from hidden_decoding.modeling.hub import resolve_model

    path = Path(args.model).expanduser()
    is_local = path.exists()
    if not path.is_file():
        # The weights of a hub id are looked at when they are here already, but not fetched for a report.
        path = resolve_model(args.model, args.revision, weights=False)

    from hidden_decoding.modeling.inspection import inspect_checkpoint
    from hidden_decoding.modeling.memory_plan import plan_memory

    inspection = inspect_checkpoint(path, snapshot=not is_local)
    plan = plan_memory(inspection, machine) if args.plan else None
    if args.json:
        print(json.dumps({**inspection.to_dict(), **({"plan": plan.to_dict()} if plan else {})}, indent=2))
        return 0
    _print_table(_rows(inspection))
    if plan is not None:
        print()
        _print_table(_plan_rows(plan))
    return 0


def _print_table(rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def _rows(found: Inspection) -> list[tuple[str, str]]:
    counts = found.parameters
    rope = ", ".join(f"{key} {value}" for key, value in found.rope.items() if key != "rope_type")
    shape = f"{found.layers} layers, {found.attention_heads} / {found.kv_heads} heads of {found.head_dim}"
    return [
        ("checkpoint", found.path),
        ("streams", f"{found.streams} (each token is read as {_counted(found.streams, 'position')})"),
        ("parameters", f"{_millions(counts.total)} in all"),
        ("  backbone", _millions(counts.backbone)),
        ("  input embeddings", f"{_millions(counts.input_embeddings)} in {_counted(found.streams, 'table')}"),
        ("  LM head", "tied to the first table" if found.tied_embeddings else _millions(counts.lm_head)),
        ("shape", f"{shape}, width {found.hidden_size}, vocabulary {found.vocab_size}"),
        ("weights", f"{found.weight_bytes / 1e9:.2f} GB, {found.dtype}"),
        ("KV cache", f"{found.kv_bytes_per_token:,} bytes per token ({found.dtype})"),
        ("context", f"{found.context.tokens:,} tokens = {found.context.positions:,} positions"),
        ("position scheme", f"{found.position_scheme} ({rope})"),
        *([("stream attention", ", ".join(found.stream_attention))] if found.stream_attention else []),
        *_tensor_rows(found),
    ]


def _tensor_rows(found: Inspection) -> list[tuple[str, str]]:
    if found.missing is None:
        return [("tensors", "not checked: there are no weights here")]
    misshapen = [f"{name} {got} instead of {want}" for name, (got, want) in (found.misshapen or {}).items()]
    problems = [("missing", found.missing), ("unexpected", found.unexpected or []), ("wrong shape", misshapen)]
    rows = [(f"{kind} tensors", f"{len(names)}: {', '.join(names)}") for kind, names in problems if names]
    return rows or [("tensors", "complete: none missing, none unexpected")]


def _plan_rows(plan: MemoryPlan) -> list[tuple[str, str]]:
    return [
        (
            "plan",
            f"{_counted(plan.gpus, 'GPU')} of {_gib(plan.gpu_memory_bytes)}, {plan.gpu_memory_utilization:.0%} used",
        ),
        (
            "weights per GPU",
            f"{_gib(plan.weight_bytes_per_gpu)}, of which {_gib(plan.extra_table_bytes_per_gpu)} extra tables",
        ),
        ("KV budget per GPU", _gib(plan.kv_budget_bytes_per_gpu)),
        ("KV cache holds", f"{plan.tokens:,} tokens = {plan.positions:,} positions"),
        ("full contexts", f"{plan.full_contexts:g} at once"),
        *(("note", note) for note in plan.notes),
    ]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:,.0f} M" if parameters >= 10_000_000 else f"{parameters:,}"


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
