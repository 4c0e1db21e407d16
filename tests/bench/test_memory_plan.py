"""`inspect --plan` foretells what a real process of the local engine takes: within 10%, weights and KV together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KV_BYTES = 256 * 2**20


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_predicted_memory_is_within_a_tenth_of_measured(tmp_path):
    out = tmp_path / "record.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "memory_plan.py"), "--engine", "local", "--streams", "4"]
    subprocess.run(
        [*command, "--kv-bytes", str(KV_BYTES), "--out", str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        check=True,
        timeout=500,
    )
    [row] = json.loads(out.read_text())["rows"]
    assert row["kv_tokens"] == pytest.approx(row["kv_tokens_planned"], rel=0.01)
    assert row["measured_bytes"] == pytest.approx(row["predicted_bytes"], rel=0.10)
