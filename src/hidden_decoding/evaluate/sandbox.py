"""Runs programs that a model wrote: each in a process of its own that can compute, and nothing else.

Contract: the process cannot open a network connection, start a process, write, rename or remove a file, or outlive its
time; its memory is limited. Results come back as plain data and are compared here, in the parent, so a program cannot
declare itself right. Where the system offers no such filter, nothing runs (`DependencyError`).

    >>> run_program("def f(x): return x + 1", "f", [(1,)]).results
    [2]
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import select
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hidden_decoding.errors import DependencyError
from hidden_decoding.evaluate import sandbox_child

MEMORY_BYTES = 4 * 2**30
MOST_ANSWER_BYTES = 64 * 2**20
# Seconds are those of the processor: the clock may run this much longer, for a program that sleeps or a busy machine.
WAITING = 3


@dataclass(frozen=True, kw_only=True)
class ProgramRun:
    """What a program did: `ran`, `error` (with a reason), `timeout` or `killed`."""

    status: str
    results: list[Any] = field(default_factory=list)
    reason: str = ""
    seconds: float = 0.0


class Raised:
    """The result of a call that raised. Equal to nothing."""

    def __init__(self, name: str) -> None:
        self.name = name


def check_sandbox() -> None:
    """Raises `DependencyError` where the sandbox cannot work; runs a program that tries to get out."""
    if platform.system() != "Linux" or platform.machine() not in sandbox_child.ARCHITECTURES:
        raise DependencyError(
            f"code can be run on Linux (x86_64, aarch64) only, and this is {platform.system()} {platform.machine()}; "
            "run the evaluation in a Linux container, or leave MBPP+ out with --suite"
        )
    attempt = "import socket\ndef f():\n    try:\n        socket.socket()\n    except OSError:\n        return 'closed'"
    run = run_program(attempt, "f", [()])
    if run.results != ["closed"]:
        raise DependencyError(
            f"the sandbox does not hold on this system ({run.reason or run.status}): code is not run; leave MBPP+ out "
            "with --suite"
        )


def run_program(
    code: str, entry_point: str, inputs: list[Any], *, seconds: float = 10.0, stop_at_error: bool = False
) -> ProgramRun:
    """Calls the program's function on every input (a sequence of arguments)."""
    job = {
        "code": code,
        "entry_point": entry_point,
        "inputs": [sandbox_child.encode(list(arguments)) for arguments in inputs],
        "stop_at_error": stop_at_error,
    }
    status, answer, spent = _run(job, seconds)
    if status != "done":
        return ProgramRun(status=status, seconds=spent)
    if answer["status"] != "ran":
        return ProgramRun(status="error", reason=str(answer.get("reason")), seconds=spent)
    results = [Raised(coded[1]) if coded[0] == "raised" else sandbox_child.decode(coded) for coded in answer["results"]]
    return ProgramRun(status="ran", results=results, seconds=spent)


def run_script(code: str, script: str, *, seconds: float = 10.0) -> ProgramRun:
    """Runs the program, then a test script over it: `ran` when the script came to its end."""
    nonce = secrets.token_hex(16)
    status, answer, spent = _run({"code": code, "script": script, "nonce": nonce}, seconds)
    if status == "done" and answer.get("nonce") == nonce:
        return ProgramRun(status="ran", seconds=spent)
    reason = str(answer.get("reason", "it ended early")) if status == "done" else ""
    return ProgramRun(status="error" if status == "done" else status, reason=reason, seconds=spent)


def _run(job: dict[str, Any], seconds: float) -> tuple[str, dict[str, Any], float]:
    """(`done`, `timeout` or `killed`; the child's answer; seconds)."""
    job = {**job, "seconds": max(1, round(seconds)), "memory_bytes": MEMORY_BYTES}
    started = time.perf_counter()
    reader, writer = os.pipe()
    with tempfile.TemporaryDirectory() as empty:
        process = subprocess.Popen(
            [sys.executable, "-I", str(Path(sandbox_child.__file__)), str(writer)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(writer,),
            cwd=empty,
            env={"PATH": "", "HOME": empty, "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        os.close(writer)
        try:
            assert process.stdin is not None, "a pipe was asked for"
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(job).encode())
                process.stdin.close()
            data = _read(reader, started + WAITING * seconds + 5)
        finally:
            os.close(reader)
            process.kill()
            process.wait()
    spent = time.perf_counter() - started
    if data is None:
        return "timeout", {}, spent
    try:
        answer = json.loads(data)
    except ValueError:
        return ("timeout" if spent >= seconds else "killed"), {}, spent
    return ("done", answer, spent) if isinstance(answer, dict) else ("killed", {}, spent)


def _read(reader: int, deadline: float) -> bytes | None:
    """Everything up to the pipe's end; None when the time ran out or it became too much."""
    parts: list[bytes] = []
    size = 0
    while True:
        left = deadline - time.perf_counter()
        if left <= 0 or size > MOST_ANSWER_BYTES:
            return None
        if not select.select([reader], [], [], left)[0]:
            return None
        part = os.read(reader, 2**20)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
