"""An engine's own server as a child process: start, wait until it answers, say what runs, hand signals on.

Contract: returns 0 after SIGTERM or SIGINT once the engine has drained and ended; `CapacityError` with the last lines
of its log, when it ends before it answers; 1 when it ends by itself later. The last line printed is a curl that works.
`vllm_server` and `sglang_server` say what is started.

    >>> run_engine(EngineServer(name="vLLM", command=command), directory, settings, choice, tokens=4096)
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hidden_decoding.errors import CapacityError
from hidden_decoding.modeling.inspection import inspect_checkpoint
from hidden_decoding.serve.launch import bind, curl_line, public_url

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from hidden_decoding.serve.engines.choice import Choice
    from hidden_decoding.serve.settings import ServeConfig

log = logging.getLogger(__name__)

LAST_LINES = 12


@dataclass(frozen=True, kw_only=True)
class EngineServer:
    """What to start. `page` is told the server's URL and gives the line that says where the chat page is."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    page: Callable[[str], contextlib.AbstractContextManager[str]]


def run_engine(server: EngineServer, directory: Path, settings: ServeConfig, choice: Choice, *, tokens: int) -> int:
    """Runs the engine until it ends, and returns the exit code. `tokens` is the context to tell the user."""
    url = public_url(settings.host, settings.port)
    with child(server) as (process, last_lines, stopped):
        if not wait_until_ready(process, url, stopped):
            if stopped.is_set():
                return 0
            raise CapacityError(
                f"{server.name} ended while starting, exit code {process.wait()}; its last lines:\n{last_lines()}"
            )
        with server.page(url) as page:
            print_start(directory, settings, choice, url, tokens=tokens, page=page)
            code = process.wait()
    return 0 if stopped.is_set() else int(code != 0)


def with_free_port(settings: ServeConfig) -> ServeConfig:
    """The settings with a port in place of 0; raises when the port is in use."""
    with contextlib.closing(bind(settings.host, settings.port)) as probe:
        return replace(settings, port=probe.getsockname()[1])


@contextlib.contextmanager
def child(
    server: EngineServer,
) -> Generator[tuple[subprocess.Popen[str], Callable[[], str], threading.Event], None, None]:
    """The running process, its last lines, and whether a signal asked it to stop; a second signal kills it."""
    process = subprocess.Popen(
        server.command,
        env={**os.environ, **server.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
    reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
    stopped = threading.Event()

    def stop(_number: int, _frame: object) -> None:
        again = stopped.is_set()
        stopped.set()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL) if again else process.send_signal(signal.SIGTERM)

    def last_lines() -> str:
        reader.join(5)
        return "".join(lines).rstrip()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    reader.start()
    try:
        yield process, last_lines, stopped
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _read(process: subprocess.Popen[str], lines: collections.deque[str]) -> None:
    assert process.stdout is not None, "the child's output is a pipe"
    shown = log.isEnabledFor(logging.WARNING)  # -q
    for line in process.stdout:
        lines.append(line)
        if shown:
            sys.stderr.write(line)


def wait_until_ready(process: subprocess.Popen[str], url: str, stopped: threading.Event) -> bool:
    """True once the server answers; False when it ended or was told to."""
    while process.poll() is None and not stopped.is_set():
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{url}/health", timeout=5):  # noqa: S310
            return True
        time.sleep(0.3)
    return False


def print_start(directory: Path, settings: ServeConfig, choice: Choice, url: str, *, tokens: int, page: str) -> None:
    """What runs and why, in tokens and positions; last the URL with a curl that works."""
    from hidden_decoding.streams import tokens_to_positions

    found = inspect_checkpoint(directory)
    has_template = settings.chat_template is not None or any(directory.glob("chat_template*"))
    rows = (
        ("engine", f"{choice.engine} ({choice.why})"),
        ("streams", f"n = {found.streams}"),
        ("context", f"{tokens:,} tokens = {tokens_to_positions(tokens, found.streams):,} positions"),
        ("page", page),
        ("URL", f"{url}/v1"),
    )
    lines = [f"{name:<11}{text}" for name, text in rows]
    prompt = "Once upon a time" if (directory / "tokenizer.json").exists() else [1, 2, 3]
    lines.append(curl_line(f"{url}/v1", None if has_template else prompt, bool(settings.api_key), model="default"))
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
