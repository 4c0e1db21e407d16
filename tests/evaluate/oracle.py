"""A server that sees only the rendered prompt, and says what was planned for the question it finds there.

It speaks the OpenAI routes that evaluation uses: completions (with echo and logprobs) and chats. It counts what it is
asked, so a test can tell whether a question came twice.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TINY = 1e-9


@dataclass(kw_only=True)
class Oracle:
    """`plan` maps a text that stands in a question to what is said: a text, or log-probabilities per continuation."""

    plan: dict[str, str | dict[str, float]] = field(default_factory=dict)
    decode: Callable[[list[int]], str] | None = None
    asked: Counter = field(default_factory=Counter)
    url: str = ""
    die_after: int | None = None  # answers, then every request fails
    lock: threading.Lock = field(default_factory=threading.Lock)

    def found(self, prompt: str) -> str | dict[str, float]:
        """What is planned for the question that stands last in the prompt (of two at one place, the longer)."""
        needle = max(
            self.plan, key=lambda needle: (prompt.rfind(needle) + len(needle) * (needle in prompt), len(needle))
        )
        assert needle in prompt, f"no known question in {prompt[-300:]!r}"
        return self.plan[needle]

    def completion(self, body: dict) -> dict:
        prompt = body["prompt"]
        usage = {"prompt_tokens": len(prompt), "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 0}}
        if isinstance(prompt, str):
            text = self.found(prompt)
            for stop in body.get("stop") or []:
                text = text.partition(stop)[0]
            return {"choices": [{"text": text, "finish_reason": "stop"}], "usage": usage}
        text = self.decode(prompt)
        totals = self.found(text)
        continuation = max((known for known in totals if text.endswith(known)), key=len)
        first = body["logprob_start_len"]
        count = len(prompt) - first
        own = [totals[continuation] / count] * count
        # What a server reports outside the continuation must not count: neither before it nor the token it generated.
        values = [None] + [-777.0] * (first - 1) + own + [-888.0]
        tops = [None] + [{"other": value + 1} for value in values[1:]]
        logprobs = {"token_logprobs": values, "top_logprobs": tops, "tokens": [""] * len(values)}
        return {"choices": [{"text": "", "logprobs": logprobs, "finish_reason": "length"}], "usage": usage}

    def chat(self, body: dict) -> dict:
        text = self.found(body["messages"][-1]["content"])
        usage = {"prompt_tokens": 10, "completion_tokens": 5}
        return {
            "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": usage,
        }

    def answer(self, path: str, body: dict) -> tuple[int, dict]:
        with self.lock:
            if self.die_after is not None and sum(self.asked.values()) >= self.die_after:
                return 503, {"error": {"message": "gone"}}
            self.asked[json.dumps(body, sort_keys=True)] += 1
        return 200, self.chat(body) if path.endswith("/chat/completions") else self.completion(body)


@contextlib.contextmanager
def serving(oracle: Oracle) -> Iterator[Oracle]:
    """The oracle on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self, status: int, content: dict) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self.reply(200, {"data": [{"id": "oracle", "streams": 2, "max_model_len": 100_000}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.reply(*oracle.answer(self.path, body))

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    oracle.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield oracle
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
