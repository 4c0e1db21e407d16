"""Refuses `stream_lens: true` where the engine cannot answer it, in place of an answer that silently lacks it.

Contract: plain ASGI around a server of somebody else's; only bodies of completion requests are read, and passed on as
they came.

    >>> app.add_middleware(LensRefusal, engine="vLLM")
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATHS = ("/v1/completions", "/v1/chat/completions")


class LensRefusal:
    """Answers 400 to requests that ask for the stream lens."""

    def __init__(self, app: ASGIApp, engine: str) -> None:
        self.app = app
        self.engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Looks into the body of a completion request."""
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].endswith(PATHS):
            await self.app(scope, receive, send)
            return
        messages, body = await _whole(receive)
        if _asks(body):
            await self._refuse(send)
            return

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        await self.app(scope, replay, send)

    async def _refuse(self, send: Send) -> None:
        message = f"stream_lens is answered by the local engine only, not by {self.engine}; use serve --engine local"
        error = {"message": message, "type": "BadRequestError", "param": "stream_lens", "code": 400}
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 400, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps({"error": error}).encode()})


async def _whole(receive: Receive) -> tuple[list[Message], bytes]:
    """All messages of a body, and the body."""
    messages = [await receive()]
    while messages[-1].get("more_body", False):
        messages.append(await receive())
    return messages, b"".join(message.get("body", b"") for message in messages)


def _asks(body: bytes) -> bool:
    if b"stream_lens" not in body:
        return False
    try:
        request = json.loads(body)
    except ValueError:
        return False  # the server says what is wrong with it
    return isinstance(request, dict) and bool(request.get("stream_lens"))
