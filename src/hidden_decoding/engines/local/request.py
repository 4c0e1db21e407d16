"""One request as the engine sees it, from arrival to its last token. Everything counts tokens."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch

from hidden_decoding.engines.local.detokenizer import Detokenizer
from hidden_decoding.engines.local.outputs import RequestMetrics, TokenLogprob
from hidden_decoding.engines.local.sampling_params import SamplingParams


@dataclass(kw_only=True, eq=False)
class Request:
    """State of one request. `token_ids` is prompt and answer; the KV of the first `computed` of them is in the pool."""

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    detokenizer: Detokenizer
    max_total_tokens: int
    end_token_ids: frozenset[int] = frozenset()
    generator: torch.Generator | None = None
    grammar: Any = None
    token_ids: list[int] = field(default_factory=list)
    computed: int = 0
    cached_tokens: int = 0
    blocks: list[int] = field(default_factory=list)
    side_by_side: bool = True
    reservation: tuple[int, int] | None = None
    registered_blocks: int = 0
    prefix_id: int = 0
    prompt_logprobs: list[TokenLogprob | None] | None = None
    answer_counts: Counter[int] = field(default_factory=Counter)
    metrics: RequestMetrics = field(default_factory=lambda: RequestMetrics(arrived=time.monotonic()))

    def __post_init__(self) -> None:
        self.token_ids = list(self.prompt_token_ids)
        if self.params.prompt_logprobs is not None:
            self.prompt_logprobs = [None] * max(1, min(self.params.logprob_start_len, self.prompt_tokens))

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt_token_ids)

    @property
    def answer_tokens(self) -> int:
        """Tokens generated so far."""
        return len(self.token_ids) - len(self.prompt_token_ids)

    @property
    def waiting_tokens(self) -> int:
        """Known tokens whose KV is not in the pool yet: the rest of the prompt, or 1 while decoding."""
        return len(self.token_ids) - self.computed

    def hold(self, blocks: list[int]) -> None:
        """Takes more KV blocks, at the end."""
        chain = self.blocks[-1:] + blocks
        self.side_by_side &= all(right == left + 1 for left, right in itertools.pairwise(chain))
        self.blocks.extend(blocks)

    def append(self, token_id: int) -> None:
        """Takes the next token of the answer."""
        self.token_ids.append(token_id)
        self.answer_counts[token_id] += 1
