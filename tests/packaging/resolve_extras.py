"""Lets pip resolve the wheel with each extra from the package index, without installing anything: `make check-extras`.

Contract: ends with 1 when an extra that must resolve does not, or when two that must not go together do. Downloads
metadata only; about half a minute an extra, three with an engine.

    $ python -m tests.packaging.resolve_extras
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.packaging.built import build

RESOLVES = ("serve", "train", "eval", "demo", "docs", "dev", "vllm", "sglang", "vllm,train", "sglang,train")
EXCLUDES = ("vllm,sglang",)
SHOWN = ("torch", "transformers", "vllm", "sglang")


def resolve(wheel: Path, extra: str) -> tuple[bool, str]:
    """Whether pip finds versions that fit, and which, or why not."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        command = [*pip, "--report", report.name, f"{wheel}[{extra}]"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            return False, (errors or done.stderr.splitlines() or ["no reason given"])[0]
        found = {item["metadata"]["name"]: item["metadata"]["version"] for item in json.load(report)["install"]}
    chosen = ", ".join(f"{name} {found[name]}" for name in SHOWN if name in found)
    return True, f"{len(found)} packages, {chosen}"


def main() -> int:
    failed = False
    with tempfile.TemporaryDirectory() as place:
        wheel = build(Path(place)).wheel
        for extra in (*RESOLVES, *EXCLUDES):
            started = time.monotonic()
            fits, why = resolve(wheel, extra)
            wrong = fits != (extra in RESOLVES)
            failed |= wrong
            print(f"{'FAIL' if wrong else 'ok':<5}[{extra}] {why} ({time.monotonic() - started:.0f} s)", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
