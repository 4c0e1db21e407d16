"""The engine behind asyncio: many readers at once, readers that leave, a full queue, draining, faults."""

from __future__ import annotations

import asyncio
import time

import pytest

from hidden_decoding import LocalEngine, SamplingParams
from hidden_decoding.engines.local.async_engine import AsyncLocalEngine
from hidden_decoding.errors import CapacityError, RequestError
from tests.engines.test_local_engine import GREEDY, prompts
from tests.support import tiny_model, tiny_tokenizer


def make(num_streams=2, **options) -> AsyncLocalEngine:
    waiting = options.pop("max_waiting", 256)
    engine = LocalEngine.from_model(tiny_model(num_streams), tiny_tokenizer(), kv_cache_memory_bytes="16MiB", **options)
    return AsyncLocalEngine(engine, max_waiting=waiting)


async def read(engine, prompt, **params):
    tokens, text = [], ""
    async for delta in engine.stream(prompt, SamplingParams(**{"max_tokens": 12, **GREEDY, **params})):
        tokens += delta.token_ids
        text += delta.text
    return tokens, text, delta


def run(work):
    """Runs `work(engine)` against a started engine and shuts it down."""

    async def main():
        engine = make()
        await engine.start()
        try:
            return await work(engine)
        finally:
            await engine.shutdown()

    return asyncio.run(asyncio.wait_for(main(), 60))


async def settle(engine):
    """Waits until the engine has nothing to do."""
    for _ in range(200):
        if not engine.engine.has_unfinished:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the engine never became idle")


def test_answers_streamed_together_equal_answers_alone():
    cases = prompts(8)
    expected = [output.token_ids for output in make().engine.generate(cases, SamplingParams(max_tokens=12, **GREEDY))]

    async def work(engine):
        return await asyncio.gather(*(read(engine, prompt) for prompt in cases))

    answers = run(work)
    assert [tokens for tokens, _, _ in answers] == expected
    assert all(last.finish_reason == "length" for _, _, last in answers)
    assert all(last.metrics.first_token <= last.metrics.finished for _, _, last in answers)


def test_a_reader_that_leaves_frees_its_slots():
    async def work(engine):
        stream = engine.stream([5, 6, 7], SamplingParams(max_tokens=240, **GREEDY))
        await anext(stream)
        assert engine.engine.stats().num_running == 1
        await stream.aclose()
        await settle(engine)
        stats = engine.engine.stats()
        assert stats.free_blocks == stats.total_blocks
        return await read(engine, [5, 6, 7])

    assert len(run(work)[0]) == 12


def test_a_cancelled_task_frees_its_slots():
    async def work(engine):
        task = asyncio.create_task(read(engine, [5, 6, 7], max_tokens=240))
        while not engine.engine.stats().num_running:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settle(engine)
        return engine.engine.stats()

    stats = run(work)
    assert stats.free_blocks == stats.total_blocks


def test_bad_requests_and_a_full_queue_are_refused_at_once():
    async def main():
        engine = make(max_waiting=0)
        await engine.start()
        with pytest.raises(CapacityError, match="waiting already"):
            await read(engine, [5])
        engine.max_waiting = 10
        with pytest.raises(RequestError, match="empty"):
            await read(engine, [])
        await engine.shutdown()
        with pytest.raises(CapacityError, match="stopping"):
            await read(engine, [5])
        assert not engine.is_healthy

    asyncio.run(asyncio.wait_for(main(), 60))


def test_draining_lets_running_answers_end():
    async def work(engine):
        task = asyncio.create_task(read(engine, [5, 6, 7], max_tokens=30))
        while not engine.engine.stats().num_running:
            await asyncio.sleep(0.001)
        await engine.shutdown(drain_seconds=30)
        return await task

    tokens, _, last = run(work)
    assert (len(tokens), last.finish_reason) == (30, "length")


def test_a_fault_between_steps_ends_requests_and_the_engine_goes_on():
    async def work(engine):
        original = engine.engine.scheduler.schedule

        def fail():
            engine.engine.scheduler.schedule = original
            raise RuntimeError("made to fail")

        engine.engine.scheduler.schedule = fail
        _, _, last = await read(engine, [5, 6, 7])
        assert last.finish_reason == "error"
        return await read(engine, [5, 6, 7])

    assert len(run(work)[0]) == 12


def slow_to_make(engine, seconds=0.2):
    """As a large grammar is: a request takes its time before it can be queued."""
    original = engine.engine.make_request
    engine.engine.make_request = lambda *args: (time.sleep(seconds), original(*args))[1]


def test_requests_still_being_made_count_as_waiting():
    async def work(engine):
        engine.max_waiting = 2
        slow_to_make(engine)
        asked = [read(engine, [5 + number]) for number in range(5)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [isinstance(answer, CapacityError) for answer in answers] == [False, False, True, True, True]
        return await read(engine, [5])

    assert len(run(work)[0]) == 12


def test_a_name_is_taken_while_its_request_is_being_made():
    async def work(engine):
        slow_to_make(engine)

        async def named():
            params = SamplingParams(max_tokens=3, **GREEDY)
            return [delta async for delta in engine.stream([5], params, "mine")]

        first, second = await asyncio.gather(named(), named(), return_exceptions=True)
        assert first[-1].finish_reason == "length"
        assert isinstance(second, RequestError)
        with pytest.raises(RequestError, match="empty"):  # a name whose request cannot be made is free again
            await anext(engine.stream([], SamplingParams(), "mine"))
        return await named()

    assert len(run(work)) == 3


@pytest.mark.parametrize("seconds", [0.0, 0.3], ids=["running", "being made"])
def test_stopping_ends_every_stream(seconds):
    async def work(engine):
        slow_to_make(engine, seconds)
        task = asyncio.create_task(read(engine, [5, 6, 7], max_tokens=240))
        while not seconds and not engine.engine.stats().num_running:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        await engine.shutdown()
        return (await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 5))[0]

    ended = run(work)
    assert isinstance(ended, CapacityError) if seconds else ended[2].finish_reason == "error"
