"""The equivalence suite: the cases that every engine answers, listed once, and the brute-force answers to them.

    engine         module                              asked for
    local          tests/engines/test_suite.py         everything
    transformers   tests/equivalence/test_suite.py     no scheduler: neither preemption nor a context limit
    vLLM           tests/vllm/test_equivalence.py      everything
    SGLang         tests/sglang/test_equivalence.py    everything, with three attention backends

An engine's module has an adapter (`Engine`), a fixture `engine` over `SHAPES`, and a class made of the parts below.
Greedy tokens equal brute force's up to ties, log-probabilities within `FP32_ENGINE_LOGPROBS`. What is special to an
engine (compiled graphs, two ranks, its server, negative controls) is in the same folders.
"""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.equivalence.tolerances import FP32_ENGINE_LOGPROBS, FP32_LOGITS
from tests.penalties import PENALTIES, penalised
from tests.support import BruteForce, assert_same_greedy, tiny_model

NEW = 16  # tokens of an answer
CHUNK = 13  # tokens per step: divides no block, no page and none of the prompts below
RUNNING = 8  # requests at once, of the 16 that are asked
SHAPES = [(1, "contiguous"), *((n, scheme) for n in (2, 4, 8) for scheme in ("contiguous", "linear"))]
# Every n and both schemes, for an engine that takes long to start.
FEW_SHAPES = [(1, "contiguous"), (2, "linear"), (4, "contiguous"), (8, "linear")]


def prompts(count: int, seed: int = 0, longest: int = 60) -> list[list[int]]:
    """Random token ids without the special ones, of random lengths."""
    rng = random.Random(seed)
    return [[rng.randrange(3, 512) for _ in range(rng.randint(1, longest))] for _ in range(count)]


@functools.cache
def reference(num_streams: int, scheme: str, head_dim: int) -> BruteForce:
    return BruteForce(tiny_model(num_streams, scheme, head_dim=head_dim))


@functools.cache
def expected_greedy(num_streams: int, scheme: str, head_dim: int, prompt: tuple[int, ...], tokens: int):
    return reference(num_streams, scheme, head_dim).greedy(list(prompt), tokens)


@dataclass
class Answer:
    """What an engine said to one prompt. `scored` has (token, log-probability) of all tokens but the first."""

    token_ids: list[int]
    finish_reason: str
    cached_tokens: int = 0
    scored: list[tuple[int, float]] = field(default_factory=list)


class Engine:
    """A running engine as the suite sees it, with `RUNNING` requests at once and steps of `CHUNK` tokens."""

    head_dim = 16  # of the tiny model it runs
    context = 128  # tokens
    block = 1  # tokens that prefixes are shared by
    reserved = 0  # tokens at the end of the context that the engine keeps for itself
    refuses_more = False  # whether it refuses a request that might go beyond the context, instead of stopping there
    too_long: Any = Exception  # what it raises for a prompt beyond the context
    penalty_order: dict[str, bool] = {}  # see tests.penalties

    def __init__(self, num_streams: int, scheme: str) -> None:
        self.num_streams, self.scheme = num_streams, scheme

    def ask(self, cases: list[list[int]], *, tokens: int = NEW, scored: bool = False, **penalties) -> list[Answer]:
        """Answers to prompts of token ids: greedy, and past any end token."""
        raise NotImplementedError

    def preempted(self) -> int:
        """How often requests lost their KV cache so far."""
        raise NotImplementedError

    def steps(self) -> contextlib.AbstractContextManager[list[list[int]]]:
        """Fills a list with the positions that the first layer reads in each forward."""
        raise NotImplementedError

    @property
    def brute(self) -> BruteForce:
        return reference(self.num_streams, self.scheme, self.head_dim)

    def expected(self, ids: list[int], tokens: int):
        return expected_greedy(self.num_streams, self.scheme, self.head_dim, tuple(ids), tokens)

    def match(self, cases: list[list[int]], **options) -> list[Answer]:
        """Asks, and holds the tokens against brute force's, up to ties of which there may be few."""
        answers, compared = self.ask(cases, **options), 0
        for ids, answer in zip(cases, answers, strict=True):
            compared += assert_same_greedy(answer.token_ids, *self.expected(ids, NEW), FP32_LOGITS)
            assert answer.finish_reason == "length"
        assert compared > 0.9 * NEW * len(cases), "too many ties to mean anything"
        return answers


def recorder(layer: Any) -> contextlib.AbstractContextManager[list[list[int]]]:
    """`Engine.steps` for a transformers layer in this process, which takes its positions by name."""

    @contextlib.contextmanager
    def recording() -> Iterator[list[list[int]]]:
        seen: list[list[int]] = []
        handle = layer.register_forward_pre_hook(
            lambda _module, _args, named: seen.append(named["position_ids"].flatten().tolist()), with_kwargs=True
        )
        try:
            yield seen
        finally:
            handle.remove()

    return recording()


class Basics:
    """What every engine is asked."""

    def test_one_request(self, engine):
        for seed in range(3):
            engine.match(prompts(1, seed=seed))

    def test_sixteen_mixed_requests(self, engine):
        engine.match(prompts(16))

    def test_chunks_end_between_tokens(self, engine):
        """No boundary of a chunk falls inside the n positions of a token, though the chunk divides nothing."""
        n = engine.num_streams
        cases = [ids * 3 for ids in prompts(3, seed=21, longest=25)] + [prompts(1, seed=22)[0][:30]]
        assert any(len(ids) % CHUNK for ids in cases)
        with engine.steps() as steps:
            engine.match(cases)
        sizes = []
        for rows in steps:
            first_rows = rows[::n]
            assert len(rows) % n == 0
            assert all(row % n == 0 for row in first_rows)
            assert rows == [row + stream for row in first_rows for stream in range(n)]
            sizes.append(len(first_rows))
        assert max(sizes) == CHUNK, "no chunk was full"
        assert len(steps) > sum(map(len, cases)) // CHUNK

    def test_prefix_hits_full_and_partial(self, engine):
        [base] = prompts(1, seed=31, longest=1)
        base = [*base, 7, 300, 42] * 20
        whole, shared = max(43, 2 * engine.block + 3), max(17, engine.block + 1)
        engine.match([base[:whole]])
        [full] = engine.match([base[:whole]])
        [partial] = engine.match([[*base[:shared], 511, *prompts(1, seed=33)[0][:20]]])
        blocks = [(tokens // engine.block) * engine.block for tokens in (whole - 1, shared)]
        assert [full.cached_tokens, partial.cached_tokens] == blocks

    def test_log_probabilities(self, engine):
        """Of every prompt token and every generated one, read in chunks, several requests at once."""
        cases = prompts(4, seed=5)
        for ids, answer in zip(cases, engine.ask(cases, scored=True), strict=True):
            text = ids + answer.token_ids
            expected_TV = engine.brute.logits(text).log_softmax(-1)
            assert [token for token, _ in answer.scored] == text[1:]
            for index, (token, logprob) in enumerate(answer.scored):
                error = abs(logprob - float(expected_TV[index, token]))
                assert error <= FP32_ENGINE_LOGPROBS, f"token {index + 1} of {len(ids)}: off by {error:.1e}"


class Penalties:
    """A token seen once counts once, not n times."""

    @pytest.mark.parametrize("penalties", PENALTIES, ids="+".join)
    def test_penalties_count_tokens(self, engine, penalties):
        cases = [ids * 2 for ids in prompts(3, seed=51, longest=12)]
        for ids, answer in zip(cases, engine.ask(cases, **penalties), strict=True):
            expected, gaps = penalised(engine.brute, ids, NEW, **penalties, **engine.penalty_order)
            assert_same_greedy(answer.token_ids, expected, gaps, FP32_ENGINE_LOGPROBS)


class Preempting:
    """What an engine with a scheduler and little memory is asked."""

    def test_preempted_requests_go_on_as_if_nothing_had_happened(self, engine):
        before = engine.preempted()
        engine.match(prompts(16, seed=17))
        assert engine.preempted() > before, "nothing was preempted: this shows too little"


class Limited:
    """What an engine with a limit on the context is asked."""

    def test_stop_at_the_context_limit_in_tokens(self, engine):
        left = 5
        ids = (prompts(1, seed=41)[0] * engine.context)[: engine.context - engine.reserved - left]
        most = engine.context - len(ids) if engine.refuses_more else 50
        [answer] = engine.ask([ids], tokens=most)
        assert len(answer.token_ids) == left
        expected, gaps = engine.expected(ids, left)
        assert_same_greedy(answer.token_ids, expected, gaps, FP32_ENGINE_LOGPROBS)
        assert answer.finish_reason == "length"
        with pytest.raises(engine.too_long):
            engine.ask([(ids * 2)[: engine.context + 1]])
