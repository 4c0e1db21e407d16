"""Serves a model with the command users have, and asks it one question through the `openai` client.

Contract: `served` yields the base URL of a server that answers `/health`, on a free port of this machine, and stops it
when the block ends. `ask` streams one completion and counts tokens as the server's usage says.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hidden_decoding.errors import CapacityError

START_SECONDS = 180
STOP_SECONDS = 20


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One streamed answer; seconds are the client's."""

    prompt: str
    text: str
    tokens: int
    first_token_seconds: float
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Tokens over the whole time, the prompt's included."""
        return self.tokens / self.seconds


@contextlib.contextmanager
def served(model: Path, log_file: Path) -> Iterator[str]:
    """`hidden-decoding serve MODEL` in a process of its own; yields `http://127.0.0.1:PORT`."""
    port = free_port()
    command = [sys.executable, "-m", "hidden_decoding.cli.main", "serve", str(model), "--port", str(port)]
    command += ["--served-model-name", "demo"]
    with log_file.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_healthy(url, process, log_file)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """A port nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log_file: Path) -> None:
    """Returns when `/health` answers 200. A server that ends or takes too long: `CapacityError` with its last words."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with (
            contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            urllib.request.urlopen(url + "/health", timeout=2) as answer,  # noqa: S310 - a URL of our own
        ):
            if answer.status == 200:
                return
        time.sleep(0.2)
    ended = f"ended with exit code {process.returncode}" if process.poll() is not None else "did not answer"
    words = log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
    raise CapacityError(f"the server {ended}; its last lines: {' | '.join(words) or 'none'} (all of them: {log_file})")


def ask(url: str, prompt: str, max_tokens: int, *, on_text: Callable[[str], None], seed: int = 0) -> Completion:
    """Streams one completion; `on_text` gets each piece as it comes."""
    from openai import OpenAI

    client = OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=120)
    started = time.monotonic()
    first, pieces, tokens = None, [], 0
    with client.completions.create(
        model="demo",
        prompt=prompt,
        max_tokens=max_tokens,
        temperature=0.7,
        seed=seed,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        for chunk in stream:
            if chunk.choices and chunk.choices[0].text:
                first = first or time.monotonic()
                pieces.append(chunk.choices[0].text)
                on_text(pieces[-1])
            if chunk.usage is not None:
                tokens = chunk.usage.completion_tokens
    ended = time.monotonic()
    return Completion(
        prompt=prompt,
        text="".join(pieces),
        tokens=tokens,
        first_token_seconds=(first or ended) - started,
        seconds=ended - started,
    )


def curl_line(url: str, prompt: str) -> str:
    """A command that asks the server the same."""
    body = json.dumps({"prompt": prompt, "max_tokens": 64}).replace("'", "'\\''")
    return f"curl {url}/v1/completions -H 'content-type: application/json' -d '{body}'"
