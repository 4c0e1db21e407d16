"""One HTTP request's work in the engine: all its sequences (prompts times n) as one stream of deltas.

Contract: `open` raises what is refused before any byte is sent; iteration yields `(sequence, Delta)` until each
sequence has ended; `close` aborts whatever still runs, so a client that goes away frees its slots at the engine's next
step. A failed step, a passed deadline or a dead engine raise `ApiError`.

    generation = await Generation(state, jobs).open()
    async for index, delta in generation: ...
    await generation.close()
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hidden_decoding.errors import CapacityError, HiddenDecodingError
from hidden_decoding.serve.errors import ApiError, from_exception, internal_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hidden_decoding.engines.local.outputs import Delta, RequestMetrics
    from hidden_decoding.engines.local.sampling_params import SamplingParams
    from hidden_decoding.serve.state import ServerState

log = logging.getLogger(__name__)

# How often a silent engine is looked at.
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """One sequence: the `sample`-th answer to the `prompt`-th prompt."""

    token_ids: list[int]
    params: SamplingParams
    prompt: int = 0
    sample: int = 0


class Generation:
    """All sequences of one HTTP request."""

    def __init__(self, state: ServerState, jobs: list[Job]) -> None:
        self.state = state
        self.jobs = jobs
        self.arrived = time.monotonic()
        self.first_token: float | None = None
        self.last_token: float | None = None
        self.answer_tokens = [0] * len(jobs)
        self.cached_tokens = [0] * len(jobs)
        self._last_seen: list[float | None] = [None] * len(jobs)
        self._events: asyncio.Queue[tuple[int, Delta] | Exception] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._first: tuple[int, Delta] | None = None
        self._finished = [False] * len(jobs)

    async def open(self, patience: float = 0.0) -> Generation:
        """Hands the jobs to the engine, and waits up to `patience` seconds for a first sign.

        A refusal that comes in that time can still become an HTTP status.
        """
        self._admit()
        self.state.running.add(self)
        name = uuid.uuid4().hex
        self._tasks = [
            asyncio.create_task(self._pump(index, job, f"{name}-{index}")) for index, job in enumerate(self.jobs)
        ]
        try:
            with contextlib.suppress(TimeoutError):
                event = await self._event_within(patience)
                if isinstance(event, Exception):
                    raise self._translated(event)
                self._first = event
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Aborts what still runs; closing twice is fine."""
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        self.state.running.discard(self)
        for index, result in enumerate(results):
            if isinstance(result, asyncio.CancelledError) and not self._finished[index]:
                self._note_finished(index, "abort", None)

    def _admit(self) -> None:
        state = self.state
        if state.draining:
            raise ApiError(503, "the server is stopping and takes no new requests")
        if not state.async_engine.is_healthy:
            raise ApiError(503, "the engine has stopped; restart the server", code="engine_stopped")
        most = min(state.settings.max_sequences_per_request, state.most_sequences)
        if len(self.jobs) > most:
            message = f"the request asks for {len(self.jobs)} sequences (prompts times n); at most {most} are allowed"
            raise ApiError(400, message, param="n" if self.jobs[-1].prompt == 0 else "prompt")
        # All of a request or nothing of it: half a request in the queue would only be aborted again.
        if sum(other.unfinished for other in state.running) + len(self.jobs) > state.most_sequences:
            waiting = state.settings.max_waiting_requests
            raise ApiError(429, f"the engine is busy and {waiting} sequences may wait for it; try again later")

    @property
    def unfinished(self) -> int:
        """Sequences that still run or wait."""
        return self._finished.count(False)

    def fail(self, error: ApiError) -> None:
        """Ends the request with an error, from outside."""
        self._events.put_nowait(error)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Delta]]:
        """Deltas of all sequences as they come."""
        open_sequences = len(self.jobs)
        while open_sequences:
            event = self._first or await self._next_event()
            self._first = None
            if isinstance(event, Exception):
                raise self._translated(event)
            index, delta = event
            if delta.finish_reason == "error":
                raise ApiError(500, f"the engine failed on this request: {delta.error or 'no reason is known'}")
            self._note(index, delta)
            open_sequences -= delta.finish_reason is not None
            yield index, delta

    async def _next_event(self) -> tuple[int, Delta] | Exception:
        limit = self.state.settings.request_timeout
        while self._events.empty():
            left = self.arrived + limit - time.monotonic() if limit else _LOOK_SECONDS
            if left <= 0:
                return ApiError(408, f"the request took longer than the server's limit of {limit:g} seconds")
            try:
                return await self._event_within(min(left, _LOOK_SECONDS))
            except TimeoutError:
                if not self.state.async_engine.is_healthy:
                    return internal_error()
        return self._events.get_nowait()

    async def _event_within(self, seconds: float) -> tuple[int, Delta] | Exception:
        """The next event, or `TimeoutError`.

        Not `asyncio.wait_for`: on Python 3.11 it loses a cancellation that comes in the same turn as an event, and the
        answer would be computed to its end for a client that has left.
        """
        async with asyncio.timeout(seconds):
            return await self._events.get()

    async def _pump(self, index: int, job: Job, name: str) -> None:
        """Carries one sequence's deltas over; being cancelled closes the engine's iterator, which aborts there."""
        stream: Any = self.state.async_engine.stream(job.token_ids, job.params, name)
        try:
            async with contextlib.aclosing(stream):
                async for delta in stream:
                    self._events.put_nowait((index, delta))
        except Exception as error:
            if not isinstance(error, HiddenDecodingError):
                log.exception("the engine's stream failed")
            self._events.put_nowait(error)

    def _translated(self, error: Exception) -> ApiError:
        if isinstance(error, CapacityError) and self.state.draining:
            return ApiError(503, str(error))
        return from_exception(error)

    def _note(self, index: int, delta: Delta) -> None:
        """Counts and times for usage and metrics."""
        metrics, job = self.state.metrics, self.jobs[index]
        now = time.monotonic()
        self.cached_tokens[index] = max(self.cached_tokens[index], delta.cached_tokens)
        if delta.token_ids:
            self.first_token = self.first_token or now
            self.last_token = now
            if (before := self._last_seen[index]) is None:
                metrics.prompt_tokens.inc(len(job.token_ids))
                metrics.time_to_first_token.observe(now - self.arrived)
            else:
                metrics.inter_token_latency.observe(now - before)
            self._last_seen[index] = now
            self.answer_tokens[index] += len(delta.token_ids)
            metrics.generation_tokens.inc(len(delta.token_ids))
        if delta.finish_reason is not None:
            self._note_finished(index, delta.finish_reason, delta.metrics)

    def _note_finished(self, index: int, reason: str, times: RequestMetrics | None) -> None:
        self._finished[index] = True
        self.state.metrics.observe_finished(
            reason,
            prompt_tokens=len(self.jobs[index].token_ids),
            answer_tokens=self.answer_tokens[index],
            times=times,
        )
