"""A scripted OpenAI-compatible server: `script` says what is answered to the last question of the user.

A script yields texts (content), dicts (a delta, such as `{"reasoning": "..."}`), numbers (seconds to wait), `Status`
(an HTTP error in place of an answer), `Fault` (an error within the stream) and `BREAK` (the connection ends there).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BREAK = object()


@dataclass(frozen=True)
class Status:
    """An HTTP error."""

    code: int
    message: str = "no"


@dataclass(frozen=True)
class Fault:
    """An error that the server sends in the middle of an answer."""

    message: str


Script = Callable[[str], Iterable[Any]]


def echo(text: str) -> list[str]:
    """What is answered unless a test says otherwise."""
    return ["You ", "said ", text]


class FakeServer(ThreadingHTTPServer):
    """Keeps what it was asked; `cancelled` is set once a client has left in the middle of an answer."""

    daemon_threads = True

    def __init__(
        self, port: int = 0, *, models: tuple[str, ...] = ("fake",), script: Script = echo, cors: bool = False
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.requests: list[dict] = []
        self.headers: list[dict] = []
        self.cancelled = threading.Event()
        self.script = script
        self.models = models
        self.cors = cors
        self.model_status: int | None = None  # in place of the list of models
        self.finish_reason = "stop"
        self.usage: dict | None = None
        self.lens: dict | None = None
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def port(self) -> int:
        return self.server_address[1]

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def stop(self) -> None:
        """Answers nobody any more, as a server that was killed."""
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address) -> None:
        """Browsers that leave are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def log_message(self, *_):
        pass

    def end_headers(self):
        if self.server.cors:
            self.send_header("access-control-allow-origin", "*")
            self.send_header("access-control-allow-headers", "*")
        super().end_headers()

    def do_OPTIONS(self):
        self.send_response(204)
        self.end_headers()

    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def do_GET(self):
        if self.server.model_status:
            self.answer(self.server.model_status, {"error": {"message": "no"}})
            return
        lens = {"stream_lens": True} if self.server.lens else {}
        self.answer(200, {"data": [{"id": name, **lens} for name in self.server.models]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append(body)
        self.server.headers.append(dict(self.headers))
        text = next(m["content"] for m in reversed(body["messages"]) if m["role"] == "user")
        steps = iter(self.server.script(text))
        first = next(steps, "")
        if isinstance(first, Status):
            self.answer(first.code, {"error": {"message": first.message}}, retry_after="7")
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        try:
            self.stream(first, steps)
        except OSError:
            self.server.cancelled.set()

    def stream(self, first, steps):
        self.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        for step in itertools.chain([first], steps):
            if step is BREAK:
                return
            if isinstance(step, (int, float)):
                time.sleep(step)
            elif isinstance(step, Fault):
                self.event({"error": {"message": step.message}})
                return
            else:
                delta = step if isinstance(step, dict) else {"content": step}
                self.event({"choices": [{"index": 0, "delta": delta}]})
        last = {"index": 0, "delta": {}, "finish_reason": self.server.finish_reason}
        self.event({"choices": [{**last, **({"stream_lens": self.server.lens} if self.server.lens else {})}]})
        if self.server.usage:
            self.event({"choices": [], "usage": self.server.usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, chunk):
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()


@contextlib.contextmanager
def fake_server(**options):
    """A server for the time of a test."""
    server = FakeServer(**options)
    try:
        yield server
    finally:
        with contextlib.suppress(OSError):
            server.stop()
