"""What needs an engine of its own: two tensor-parallel ranks, whose requests are retracted."""

from __future__ import annotations

from tests.engine_suite import prompts
from tests.sglang.engine import tight


def test_two_tensor_parallel_ranks(tiny_checkpoint, monkeypatch):
    monkeypatch.setenv("SGLANG_CPU_OMP_THREADS_BIND", "0|1")
    with tight(tiny_checkpoint(4), 4, "contiguous", retract=True, tp_size=2) as engine:
        engine.match(prompts(6))
        assert engine.preempted() > 0
