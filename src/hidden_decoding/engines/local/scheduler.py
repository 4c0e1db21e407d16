"""Who runs in the next step, and with how many tokens. Continuous batching over tokens; no tensors.

Contract: one call of `schedule` gives each chosen request a span of its known tokens whose KV is still missing. Running
requests come first (a decode is a span of 1), prompts fill the rest of the step's token budget in chunks, waiting
requests are admitted in order while blocks last. When a running request needs a block and none is left, the one
admitted last gives up its blocks and goes back to the head of the queue; it resumes by reading its tokens again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hidden_decoding.engines.local.kv_blocks import BlockPool
    from hidden_decoding.engines.local.request import Request


@dataclass(frozen=True, kw_only=True)
class Span:
    """Tokens `start` ... `start + count - 1` of a request, to run in this step."""

    request: Request
    start: int
    count: int

    @property
    def completes(self) -> bool:
        """Whether the last known token is among them, so that its logits give the next one."""
        return self.start + self.count == len(self.request.token_ids)


class Scheduler:
    """Holds the waiting and the running requests. `max_step_tokens` bounds the tokens of one step."""

    def __init__(self, pool: BlockPool, *, max_running: int, max_step_tokens: int) -> None:
        self.pool = pool
        self.max_running = max_running
        self.max_step_tokens = max_step_tokens
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.preemptions = 0
        self.prefix_queries = 0
        self.prefix_hits = 0

    def add(self, request: Request) -> None:
        """Puts a request at the end of the queue."""
        self.waiting.append(request)

    def schedule(self) -> list[Span]:
        """The spans of the next step; empty when nothing can run."""
        spans: list[Span] = []
        budget = self.max_step_tokens
        # Decodes first, so that a long prompt never holds up running answers by more than its chunk.
        for request in sorted(self.running, key=lambda request: request.waiting_tokens > 1):
            if request not in self.running:  # gave up its blocks for an earlier one
                continue
            count = min(request.waiting_tokens, budget)
            if count == 0 or not self._make_room(request, count, spans):
                continue
            spans.append(Span(request=request, start=request.computed, count=count))
            budget -= count
        while self.waiting and budget > 0 and len(self.running) < self.max_running:
            request = self.waiting[0]
            if not self._admit(request):
                break
            self.waiting.popleft()
            self.running.append(request)
            count = min(request.waiting_tokens, budget)
            spans.append(Span(request=request, start=request.computed, count=count))
            budget -= count
        return [span for span in spans if span.request in self.running]

    def _admit(self, request: Request) -> bool:
        """Finds blocks for all known tokens of a waiting request, reusing a known prefix. All or nothing."""
        # The last known token must be run even when it is cached: its logits are needed.
        # A prompt token is scored by the logits of the one before it, so that one must be run too.
        reusable = len(request.token_ids) - 1
        if request.params.prompt_logprobs is not None:
            reusable = min(reusable, max(request.params.logprob_start_len - 1, 0))
        shared, prefix = self.pool.match_prefix(request.token_ids, reusable)
        needed = self.pool.blocks_for(len(request.token_ids)) - len(shared)
        self.pool.share(shared)
        expected = self.pool.blocks_for(request.max_total_tokens) - len(shared)
        own = self.pool.take(needed, after=shared[-1] if shared else None, expected=expected)
        if own is None:
            self.pool.release(shared)
            return False
        request.hold(shared + own)
        if own:
            request.reservation = (own[0], expected)
            self.pool.reserve(*request.reservation, 1)
        request.registered_blocks, request.prefix_id = len(shared), prefix
        request.computed = len(shared) * self.pool.block_size
        if request.answer_tokens == 0:
            request.cached_tokens = request.computed
        self.prefix_queries += len(request.token_ids)
        self.prefix_hits += request.computed
        return True

    def _make_room(self, request: Request, count: int, spans: list[Span]) -> bool:
        """Blocks for the next `count` tokens of a running request, taken from the latest admitted if need be."""
        missing = self.pool.blocks_for(request.computed + count) - len(request.blocks)
        while (extra := self.pool.take(max(missing, 0), after=request.blocks[-1], expected=missing)) is None:
            victim = self.running[-1]
            self.preempt(victim)
            spans[:] = [span for span in spans if span.request is not victim]
            if victim is request:
                return False
        request.hold(extra)
        return True

    def preempt(self, request: Request) -> None:
        """Takes a request's blocks away and puts it at the head of the queue."""
        self.preemptions += 1
        self.running.remove(request)
        self._free(request)
        self.waiting.appendleft(request)

    def finish(self, request: Request) -> None:
        """Forgets a request, wherever it is; its blocks are free at once."""
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        self._free(request)

    def _free(self, request: Request) -> None:
        # From the end, so that the blocks nearest to the root are the last to be evicted.
        self.pool.release(request.blocks[::-1])
        if request.reservation is not None:
            self.pool.reserve(*request.reservation, -1)
        request.blocks, request.side_by_side, request.reservation = [], True, None
        request.computed, request.registered_blocks, request.prefix_id = 0, 0, 0

    def advance(self, span: Span) -> None:
        """Notes that a span's KV is in the pool, and makes the blocks it filled findable for others."""
        request, pool = span.request, self.pool
        request.computed = span.start + span.count
        if not pool.prefix_caching:
            return
        full = request.computed // pool.block_size
        for index in range(request.registered_blocks, full):
            tokens = tuple(request.token_ids[index * pool.block_size : (index + 1) * pool.block_size])
            request.prefix_id = pool.register(request.blocks[index], request.prefix_id, tokens)
        request.registered_blocks = full
