"""Requests to measure with: prompts of random token ids whose lengths look like people's conversations.

Contract: the same seed gives the same requests, whatever runs them. Lengths count tokens. Loads only the standard
library.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from hidden_decoding.errors import ConfigError

# (median, sigma of the logarithm): short questions, longer answers, a long tail of both, as in shared conversations.
CONVERSATION_PROMPT = (60.0, 1.2)
CONVERSATION_ANSWER = (180.0, 0.9)


@dataclass(frozen=True, kw_only=True)
class WorkloadConfig:
    """What is asked: how many requests, how long, from which seed."""

    num_prompts: int = field(default=100, metadata={"help": "requests in all"})
    seed: int = field(default=0, metadata={"help": "lengths, tokens and arrival times follow from it"})
    input_len: int | None = field(
        default=None, metadata={"help": "tokens of every prompt (default: a mix like people's conversations)"}
    )
    output_len: int | None = field(default=None, metadata={"help": "tokens of every answer (default: such a mix)"})
    max_request_tokens: int = field(default=1024, metadata={"help": "no prompt plus answer is longer than this"})
    vocab_size: int = field(default=4096, metadata={"help": "prompts use token ids 3 ... vocab_size - 1"})

    def __post_init__(self) -> None:
        for name in ("num_prompts", "max_request_tokens", "input_len", "output_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be a whole number from 1")
        if (self.input_len or 1) + (self.output_len or 1) > self.max_request_tokens:
            raise ConfigError(
                f"input_len and output_len make {(self.input_len or 1) + (self.output_len or 1)} tokens, more than "
                f"max_request_tokens ({self.max_request_tokens}); raise --max-request-tokens"
            )
        if self.vocab_size < 4:
            raise ConfigError(f"vocab_size is {self.vocab_size}; prompts need ids from 3 on, so at least 4")


@dataclass(frozen=True, kw_only=True)
class WorkItem:
    """One request: its prompt and how many tokens to generate."""

    prompt_token_ids: list[int]
    answer_tokens: int


def draw(config: WorkloadConfig) -> list[WorkItem]:
    """The requests of a run."""
    rng = random.Random(config.seed)
    return [_one(rng, config) for _ in range(config.num_prompts)]


def _one(rng: random.Random, config: WorkloadConfig) -> WorkItem:
    most = config.max_request_tokens
    prompt = config.input_len or _length(rng, CONVERSATION_PROMPT, most - (config.output_len or 1))
    answer = config.output_len or _length(rng, CONVERSATION_ANSWER, most - prompt)
    ids = [rng.randrange(3, config.vocab_size) for _ in range(prompt)]
    return WorkItem(prompt_token_ids=ids, answer_tokens=answer)


def _length(rng: random.Random, shape: tuple[float, float], most: int) -> int:
    median, sigma = shape
    return max(1, min(most, round(rng.lognormvariate(math.log(median), sigma))))
