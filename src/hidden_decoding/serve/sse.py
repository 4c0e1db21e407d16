"""Server-sent events: `data: {json}` and a blank line, comments while nothing happens, errors as events.

Contract: the body is an async generator of JSON texts. However the stream ends (done, failed, the client gone), `close`
is awaited, which aborts the request; an `ApiError` inside becomes `data: {"error": {...}}`. A stream that ends well
ends with `data: [DONE]`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.responses import Response

from hidden_decoding.serve.errors import ApiError, internal_error

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine

    from starlette.types import Receive, Scope, Send

log = logging.getLogger(__name__)
T = TypeVar("T")


class EventStream(Response):
    """A streamed answer."""

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[str, None], *, close: Callable[[], Awaitable[None]], keep_alive_seconds: float
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.events = events
        self.close = close
        self.keep_alive_seconds = keep_alive_seconds

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Sends events until they end or the client leaves, whichever is first."""
        sender = asyncio.create_task(self._send_all(send))
        watcher = asyncio.create_task(until_disconnected(receive))
        try:
            await asyncio.wait({sender, watcher}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sender, watcher):
                task.cancel()
            results = await asyncio.gather(sender, watcher, return_exceptions=True)
            await self.events.aclose()
            await self.close()
        if isinstance(results[0], Exception) and not isinstance(results[0], OSError):
            raise results[0]

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async with contextlib.aclosing(_with_pauses(self.events, self.keep_alive_seconds)) as lines:
                async for text in lines:
                    await _send_line(send, ": keep-alive" if text is None else f"data: {text}")
            await _send_line(send, "data: [DONE]")
        except ApiError as error:
            await _send_line(send, f"data: {json.dumps(error.payload(), ensure_ascii=False)}")
        except OSError:
            raise
        except Exception:
            log.exception("a stream failed")
            await _send_line(send, f"data: {json.dumps(internal_error().payload())}")
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_line(send: Send, line: str) -> None:
    await send({"type": "http.response.body", "body": f"{line}\n\n".encode(), "more_body": True})


async def _with_pauses(events: AsyncGenerator[str, None], seconds: float) -> AsyncGenerator[str | None, None]:
    """The events, and None whenever `seconds` pass without one."""
    pending: asyncio.Future[str] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({pending}, timeout=seconds)
            if not done:
                yield None
                continue
            try:
                text = pending.result()
            except StopAsyncIteration:
                return
            finally:
                pending = None
            yield text
    finally:
        if pending is not None:
            pending.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, Exception):
                await pending


async def until_disconnected(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


class ClientGoneError(Exception):
    """The client left before its answer was ready."""


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; when the client leaves first, `work` is cancelled and `ClientGoneError` raised."""
    worker = asyncio.create_task(work)
    watcher = asyncio.create_task(until_disconnected(receive))
    try:
        await asyncio.wait({worker, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if worker.done():
            return worker.result()
        raise ClientGoneError
    finally:
        for task in (worker, watcher):
            task.cancel()
        await asyncio.gather(worker, watcher, return_exceptions=True)
