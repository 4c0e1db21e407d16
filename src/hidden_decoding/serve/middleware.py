"""What every request passes before its route: faults caught, the key, the size of its body. Plain ASGI throughout.

Contract: a request without a right key gets 401 (`/health` needs none), a body above the limit 413 without being kept
in memory; what passes reaches the route with its whole body read, so no slow sender holds a route up.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from typing import TYPE_CHECKING

from hidden_decoding.serve.errors import ApiError, internal_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)
OPEN_PATHS = frozenset({"/health"})
# A client that is still sending a body that is too large gets this much of a chance to read the answer.
_DISCARD_SECONDS = 2.0
_BODY_SECONDS = 60.0


class _ClientLeftError(Exception):
    """The client closed the connection before its body was complete."""


class FaultBarrier:
    """Turns whatever the application did not foresee into a plain 500; the log gets the traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers for the application when it fails before it has begun to answer."""
        begun = False

        async def watching(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, watching)
        except Exception:
            if scope["type"] != "http" or begun:
                raise
            log.exception("a request failed")
            await internal_error().response()(scope, receive, send)


class BearerAuth:
    """Lets through who has one of the keys."""

    def __init__(self, app: ASGIApp, keys: tuple[str, ...]) -> None:
        self.app = app
        self.keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Checks the `authorization` header."""
        if scope["type"] != "http" or not self.keys or scope["path"] in OPEN_PATHS or self._knows(scope):
            await self.app(scope, receive, send)
            return
        error = ApiError(401, "the API key is missing or wrong; send the header 'authorization: Bearer KEY'")
        await error.response()(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        header = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, given = header.partition(b" ")
        # Every key is compared in full, so that the time taken says nothing about which bytes were right.
        matches = [hmac.compare_digest(given.strip(), key) for key in self.keys]
        return scheme.lower() == b"bearer" and any(matches)


class BodyLimit:
    """Reads the body before the route does, up to a limit, whether or not its size was announced."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 413 and 408, or hands the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            body = await self._read(scope, receive)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        except _ClientLeftError:
            return
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self.max_bytes:
            await self._refuse(receive)
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                async for part in _parts(receive):
                    size += len(part)
                    if size > self.max_bytes:
                        parts.clear()
                        await self._refuse(receive)
                    parts.append(part)
        except TimeoutError:
            message = f"the request's body did not arrive within {_BODY_SECONDS:g} seconds"
            raise ApiError(408, message, headers={"connection": "close"}) from None
        return b"".join(parts)

    async def _refuse(self, receive: Receive) -> None:
        """Raises 413, after throwing away for a while what is still coming: most clients send before they read."""
        thrown_away = 0
        try:
            async with asyncio.timeout(_DISCARD_SECONDS):
                async for part in _parts(receive):
                    thrown_away += len(part)
                    if thrown_away > 4 * self.max_bytes:
                        break
        except TimeoutError:
            pass
        message = f"the request's body is larger than this server's limit of {self.max_bytes} bytes (--max-body-bytes)"
        raise ApiError(413, message, headers={"connection": "close"})


async def _parts(receive: Receive) -> AsyncIterator[bytes]:
    """The pieces of a body as they arrive."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientLeftError
        yield message.get("body", b"")
        more = message.get("more_body", False)
