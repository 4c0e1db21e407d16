"""A scripted OpenAI-compatible server: what the last user message says decides what happens."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[dict] = []
        self.headers: list[dict] = []
        self.cancelled = threading.Event()
        self.script = lambda text: ["You ", "said ", text]
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def log_message(self, *_):
        pass

    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def do_GET(self):
        self.answer(200, {"data": [{"id": "fake"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append(body)
        self.server.headers.append(dict(self.headers))
        text = next(m["content"] for m in reversed(body["messages"]) if m["role"] == "user")
        for status in (401, 429):
            if text == str(status):
                self.answer(status, {"error": {"message": "no"}}, retry_after="7")
                return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        try:
            if text == "think":
                self.event({"reasoning": "Let me see."})
            for piece in self.server.script(text):
                self.event({"content": piece})
            while text == "endless":
                self.event({"content": "more "})
                time.sleep(0.02)
            if text != "break":
                self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.server.cancelled.set()

    def event(self, delta):
        self.wfile.write(f"data: {json.dumps({'choices': [{'delta': delta}]})}\n\n".encode())
        self.wfile.flush()
