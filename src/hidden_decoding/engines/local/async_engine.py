"""The local engine behind asyncio: steps run in a thread of their own, answers stream to coroutines.

Contract: only the engine's thread touches the engine's state. A coroutine that stops reading (its client left) has its
request aborted before the next step.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from hidden_decoding.engines.local.outputs import Delta
from hidden_decoding.errors import CapacityError, RequestError

if TYPE_CHECKING:
    from hidden_decoding.engines.local.engine import LocalEngine
    from hidden_decoding.engines.local.request import Request
    from hidden_decoding.engines.local.sampling_params import SamplingParams

log = logging.getLogger(__name__)


class AsyncLocalEngine:
    """Feeds a `LocalEngine` from coroutines. At most `max_waiting` requests may wait for their first step."""

    def __init__(self, engine: LocalEngine, *, max_waiting: int = 256) -> None:
        self.engine = engine
        self.max_waiting = max_waiting
        self._orders: deque[Request | str] = deque()  # a request to queue, or the id of one to abort
        self._answers: dict[str, asyncio.Queue[Delta]] = {}
        self._being_made = 0  # requests that passed the check of `max_waiting` and are not ordered yet
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._draining = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._numbers = itertools.count()

    async def start(self) -> None:
        """Starts the engine's thread; call once, inside the running loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="local-engine", daemon=True)
        self._thread.start()

    async def shutdown(self, drain_seconds: float = 0.0) -> None:
        """Takes no new requests, lets running ones end for up to `drain_seconds`, then ends the rest and stops."""
        self._draining = True
        deadline = asyncio.get_running_loop().time() + drain_seconds
        while self._answers and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    @property
    def is_healthy(self) -> bool:
        """Whether the engine's thread is alive."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def is_draining(self) -> bool:
        """Whether new requests are refused because the engine is stopping."""
        return self._draining

    async def stream(
        self, prompt_token_ids: Sequence[int], params: SamplingParams, request_id: str | None = None
    ) -> AsyncIterator[Delta]:
        """Yields what each step adds, until a delta with a `finish_reason`.

        Raises `RequestError` for a request that cannot be served and `CapacityError` when too many wait already.
        """
        if self._draining:
            raise CapacityError("the server is stopping and takes no new requests")
        if len(self.engine.scheduler.waiting) + len(self._orders) + self._being_made >= self.max_waiting:
            raise CapacityError(f"{self.max_waiting} requests are waiting already; try again later")
        name = request_id or f"stream-{next(self._numbers)}"
        if name in self._answers:
            raise RequestError(f"a request {name!r} is already running", param="request_id")
        answers: asyncio.Queue[Delta] = asyncio.Queue()
        self._answers[name] = answers  # from here on the name is taken, and draining waits for it
        finished = True  # until it is ordered there is nothing to abort
        try:
            self._order(await self._make(prompt_token_ids, params, name))
            finished = False
            while not finished:
                delta = await answers.get()
                finished = delta.finish_reason is not None
                yield delta
        finally:
            self._answers.pop(name, None)
            if not finished:
                self._order(name)

    async def _make(self, prompt_token_ids: Sequence[int], params: SamplingParams, name: str) -> Request:
        """A checked request. Not made in the event loop: a grammar can take long to compile."""
        self._being_made += 1
        try:
            request = await asyncio.to_thread(self.engine.make_request, prompt_token_ids, params, name)
        finally:
            self._being_made -= 1
        if self._stopping.is_set():
            raise CapacityError("the server is stopping and takes no new requests")
        return request

    def _order(self, order: Request | str) -> None:
        self._orders.append(order)
        self._wake.set()

    def _run(self) -> None:
        """The engine's thread: take orders, step, hand out; sleep when there is nothing to do."""
        while not self._stopping.is_set():
            self._take_orders()
            if not self.engine.has_unfinished:
                self._wake.wait()
                self._wake.clear()
                continue
            try:
                deltas = self.engine.step()
            except Exception:
                # `step` contains failures of the model itself; this is a fault of ours. Nobody may be left hanging.
                log.exception("the engine failed between steps; all its requests end")
                deltas = self.engine.fail_all()
            if deltas:
                self._send(deltas)
        # Nobody may be left hanging, not even whoever ordered just before the stop.
        self._take_orders()
        self._send(self.engine.fail_all())

    def _take_orders(self) -> None:
        while self._orders:
            order = self._orders.popleft()
            if isinstance(order, str):
                self.engine.abort(order)
                continue
            try:
                self.engine.queue(order)
            except RequestError as error:
                self._send([Delta(request_id=order.request_id, finish_reason="error", error=str(error))])

    def _send(self, deltas: list[Delta]) -> None:
        # A loop that is closed has no readers left.
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._hand_out, deltas)

    def _hand_out(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            if (answers := self._answers.get(delta.request_id)) is not None:
                answers.put_nowait(delta)
