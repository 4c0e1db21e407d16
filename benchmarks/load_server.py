"""The server of the load test: the command `serve`, with a stopwatch on the engine's steps.

Contract: serves until a signal like the command itself; then writes what the stopwatch saw, as JSON, to the file in
`LOAD_SERVER_REPORT`. A gap is the time (and the number of steps) from one token of a request to its next.

    $ LOAD_SERVER_REPORT=steps.json python benchmarks/load_server.py serve MODEL --port 0
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from hidden_decoding.cli.main import main
from hidden_decoding.engines.local.engine import LocalEngine
from hidden_decoding.engines.local.runner import ModelRunner
from hidden_decoding.engines.local.scheduler import Scheduler

FORGET_EVERY = 500


class Stopwatch:
    """Wraps the engine's step; everything it keeps is bounded by the requests that run."""

    def __init__(self) -> None:
        self.longest = {"step_seconds": 0.0, "step_tokens": 0, "gap_seconds": 0.0, "gap_steps": 0}
        self.after_preemption = {"gap_seconds": 0.0, "gap_steps": 0}
        self.preemptions = self.steps = self.tokens = 0
        self._last: dict[str, tuple[float, int]] = {}
        self._preempted: set[str] = set()

    def install(self) -> None:
        """Puts the wrappers in place."""
        step, run, preempt = LocalEngine.step, ModelRunner.run, Scheduler.preempt

        def timed_step(engine):
            started = time.perf_counter()
            deltas = step(engine)
            now = time.perf_counter()
            self._note(engine, deltas, now - started, now)
            return deltas

        def counted_run(runner, spans):
            self._most("step_tokens", sum(span.count for span in spans))
            return run(runner, spans)

        def counted_preempt(scheduler, request):
            self.preemptions += 1
            self._preempted.add(request.request_id)
            preempt(scheduler, request)

        LocalEngine.step, ModelRunner.run, Scheduler.preempt = timed_step, counted_run, counted_preempt

    def _most(self, name: str, value: float, where: dict | None = None) -> None:
        where = self.longest if where is None else where
        where[name] = max(where[name], value)

    def _note(self, engine, deltas, seconds: float, now: float) -> None:
        self.steps = engine.steps
        self._most("step_seconds", seconds)
        for delta in deltas:
            name = delta.request_id
            self.tokens += len(delta.token_ids)
            if name in self._last:
                where = self.after_preemption if name in self._preempted else self.longest
                self._most("gap_seconds", now - self._last[name][0], where)
                self._most("gap_steps", engine.steps - self._last[name][1], where)
            self._preempted.discard(name)
            self._last[name] = (now, engine.steps)
            if delta.finish_reason is not None:
                del self._last[name]
        if engine.steps % FORGET_EVERY == 0:  # of requests that were aborted nothing more is heard
            alive = {request.request_id for request in (*engine.scheduler.running, *engine.scheduler.waiting)}
            self._last = {name: seen for name, seen in self._last.items() if name in alive}
            self._preempted &= alive

    def report(self) -> dict:
        """What was seen, as JSON has it."""
        return {
            "steps": self.steps,
            "answer_tokens": self.tokens,
            "preemptions": self.preemptions,
            "longest": self.longest,
            "longest_with_a_preemption_between": self.after_preemption,
        }


if __name__ == "__main__":
    watch = Stopwatch()
    watch.install()
    code = main(sys.argv[1:])
    Path(os.environ["LOAD_SERVER_REPORT"]).write_text(json.dumps(watch.report()), encoding="utf-8")
    sys.exit(code)
