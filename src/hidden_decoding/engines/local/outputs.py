"""What the engine hands back: plain data, everything in tokens. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hidden_decoding.modeling.stream_readout import TokenReadout


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """One token's log-probability (natural log), and the likeliest alternatives as (token id, logprob), best first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(kw_only=True)
class RequestMetrics:
    """Times of one request in seconds of `time.monotonic()`; `None` until reached."""

    arrived: float
    scheduled: float | None = None
    first_token: float | None = None
    finished: float | None = None


@dataclass(kw_only=True)
class Delta:
    """What one step added to one request.

    `text` may be empty while tokens wait for the rest of a character or for a possible stop string; all text held back
    arrives at the latest with `finish_reason` ("stop", "length", "abort" or "error").
    """

    request_id: str
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    # Once, with the first delta: one entry per prompt token, the first None. Only when asked for.
    prompt_logprobs: list[TokenLogprob | None] | None = None
    # What each stream said about each token of the answer; of its first tokens only, and only when asked for.
    readouts: list[TokenReadout] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    cached_tokens: int = 0
    error: str | None = None
    metrics: RequestMetrics | None = None


@dataclass(kw_only=True)
class RequestOutput:
    """A whole answer: all deltas of a request put together."""

    request_id: str
    prompt_token_ids: list[int]
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob | None] | None = None
    readouts: list[TokenReadout] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    cached_tokens: int = 0
    error: str | None = None
    metrics: RequestMetrics | None = None

    def add(self, delta: Delta) -> None:
        """Appends what a step brought."""
        self.text += delta.text
        self.token_ids.extend(delta.token_ids)
        self.logprobs.extend(delta.logprobs)
        self.readouts.extend(delta.readouts)
        self.prompt_logprobs = delta.prompt_logprobs or self.prompt_logprobs
        self.finish_reason = delta.finish_reason
        self.stop_reason = delta.stop_reason
        self.cached_tokens = delta.cached_tokens
        self.error = delta.error
        self.metrics = delta.metrics
