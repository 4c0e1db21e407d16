"""`hidden-decoding serve` with another engine behind it, as a process, and what its chat API says."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def served(model: Path, flags: list[str], environment: dict[str, str] | None = None) -> Iterator[tuple[str, list[str]]]:
    """(base URL, lines printed) of a server; it must end with 0 after SIGTERM."""
    process = subprocess.Popen(
        [sys.executable, "-m", "hidden_decoding.cli.main", "serve", str(model), "-q", "--port", "0", *flags],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    try:
        while not lines or not lines[-1].startswith("curl "):
            line = process.stdout.readline()
            assert line, "the engine did not start"
            lines.append(line.rstrip("\n"))
        [url] = [line.split()[-1] for line in lines if line.startswith("URL")]
        yield url.removesuffix("/v1"), lines
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()


def chat(url: str, stream: bool, **fields) -> tuple[str, str]:
    """(thinking, answer) to a greeting; `fields` are the engine's own."""
    body = {"model": "default", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0}
    data, kind = json.dumps({**body, "stream": stream, **fields}).encode(), {"Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{url}/v1/chat/completions", data, kind), timeout=120
    ) as answer:
        if not stream:
            messages = [json.load(answer)["choices"][0]["message"]]
        else:
            events = [line[6:] for line in answer.read().decode().splitlines() if line.startswith("data: {")]
            messages = [choice["delta"] for event in events for choice in json.loads(event)["choices"]]
    return tuple("".join(message.get(field) or "" for message in messages) for field in ("reasoning", "content"))
