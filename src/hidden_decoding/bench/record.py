"""What every benchmark record carries: command, commit, machine, versions, spread; written as JSON.

Records are raw figures of one run on one machine. Compare within a record, not between machines.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# The one shape of benchmarks: 104M parameters in the backbone, random weights.
BENCH_100M = {
    "vocab_size": 4096,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 64,
}


def spread(values: list[float]) -> dict[str, float]:
    """Minimum, median and maximum, and how many."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values), "count": len(values)}


def environment(command: str | None = None) -> dict[str, Any]:
    """Machine, versions and commit of this run; `command` where the words typed hold paths of one machine."""
    import torch
    import transformers

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command or " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": _commit(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def write_record(path: Path, results: dict[str, Any], *, command: str | None = None) -> None:
    """Writes the environment and the results; overwrites an older record of the same name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"environment": environment(command), **results}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _commit() -> str:
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False, cwd=Path.cwd()
    )
    return result.stdout.strip() or "unknown"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
