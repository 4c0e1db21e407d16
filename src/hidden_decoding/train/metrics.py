"""What a run reports: one JSON object a line in `metrics.jsonl`, and a progress bar for people.

Contract: every record has `kind` ("start", "step", "evaluation", "end"), `step` and `seconds` (of training, evaluation
not counted, over all sessions of the run). Step records carry `loss` (nats per token), `learning_rate`,
`gradient_norm`, `tokens`, `positions` (so far), both per second, and `memory_bytes` (peak). Evaluation records carry
`heldout_loss` (nats per token), `bits_per_byte`, and `stream_cosine` at three depths. `model_flops_per_second` counts
as `modeling.flops` does, over all processes; `mfu` is its share of their peak, where that is known. Only the first
process writes.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from hidden_decoding.train.trackers import Tracker


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory of this process: of the device where it is a GPU, else resident in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():  # `ru_maxrss` would also count the process this one was started from
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


# Dense bfloat16 rates of the makers' data sheets, in TFLOP/s; the first name found in the device's own counts.
PEAK_TFLOPS = {"B200": 2250, "H200": 989, "H100": 989, "GH200": 989, "A100": 312, "L40S": 362, "L4": 121, "4090": 165}


def peak_tflops(device: torch.device) -> float | None:
    """The device's peak in TFLOP/s where it is known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((float(rate) for known, rate in PEAK_TFLOPS.items() if known in name), None)


def _line(record: dict[str, Any]) -> str:
    """A step in a few words: loss, speed in tokens and positions, share of the peak, memory."""
    parts = [f"loss {record['loss']:.3f}", f"{record['tokens_per_second']:,.0f} tokens/s"]
    if record["positions"] != record["tokens"]:
        parts.append(f"{record['positions_per_second']:,.0f} positions/s")
    if record.get("mfu") is not None:
        parts.append(f"MFU {record['mfu']:.1%}")
    if record.get("memory_bytes"):
        parts.append(f"{record['memory_bytes'] / 2**30:.1f} GiB")
    return ", ".join(parts)


class Metrics:
    """Appends records to a file and keeps the bar; both off where `active` is false."""

    def __init__(self, path: Path, *, steps: int, label: str, active: bool, progress: bool) -> None:
        self.path = path
        self.active = active
        self.tracker: Tracker | None = None  # takes every record that goes to the file
        self.heldout = ""
        self.bar = tqdm(total=steps, desc=label, unit="step", disable=not (active and progress), dynamic_ncols=True)

    def rewind(self, step: int | None) -> None:
        """Goes back to a checkpoint's step (None: to nothing): later records are of work that is done again now."""
        self.bar.update(step or 0)
        if self.active and self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines() if step is not None else []
            kept = [line for line in lines if (record := _parsed(line)) and record["step"] <= (step or 0)]
            self.path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """One record to the file; a step also moves the bar."""
        if not self.active:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self.tracker is not None:
            self.tracker.record(record)
        if "heldout_loss" in record:
            self.heldout = f", held-out {record['heldout_loss']:.3f}"
        if record["kind"] == "step":
            self.bar.set_postfix_str(_line(record) + self.heldout, refresh=False)
            self.bar.update(1)

    def close(self) -> None:
        """Ends the bar, showing its last state, and the tracker."""
        if self.tracker is not None:
            self.tracker.close()
        self.bar.refresh()
        self.bar.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All records of a run; a last line that was cut off is left out."""
    return [record for line in path.read_text(encoding="utf-8").splitlines() if (record := _parsed(line))]


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record
