"""SGLang with our plugin passes the suite of all engines: odd chunks, few slots, three attention backends.

Retracted requests seem to forget their penalties in SGLang, with or without streams, and its overlapped scheduler, the
default, draws a token before the penalties counted the one before it: both are off where penalties are asked, on
elsewhere.
"""

from __future__ import annotations

import pytest

from tests.engine_suite import FEW_SHAPES, Basics, Limited, Penalties, Preempting, prompts
from tests.sglang.engine import tight

# An engine that ends kills all processes below this one: engines belong to classes, so that none outlives another.


class TestTorchNative(Basics, Penalties, Limited):
    """Every case on SGLang's plain attention."""

    @pytest.fixture(scope="class", params=FEW_SHAPES, ids=lambda shape: f"n{shape[0]}-{shape[1]}")
    def engine(self, request, tiny_checkpoint):
        n, scheme = request.param
        with tight(tiny_checkpoint(n, scheme), n, scheme, disable_overlap_schedule=True) as adapter:
            yield adapter


class TestFlashAttention(Basics, Preempting, Limited):
    """The whole engine on `fa3`, its kernel replaced by PyTorch that reads the same arguments."""

    @pytest.fixture(scope="class")
    def engine(self, tiny_checkpoint):
        with tight(tiny_checkpoint(8, "linear"), 8, "linear", retract=True, attention_backend="fa3") as adapter:
            yield adapter


class TestTriton:
    """The whole engine on `triton`, SGLang's real kernels in the interpreter: slow, so few and short requests."""

    @pytest.fixture(scope="class")
    def engine(self, tiny_checkpoint):
        with tight(tiny_checkpoint(2), 2, "contiguous", retract=True, attention_backend="triton") as adapter:
            yield adapter

    def test_short_requests_some_retracted(self, engine):
        engine.match(prompts(3, seed=3, longest=24))
        assert engine.preempted() > 0
