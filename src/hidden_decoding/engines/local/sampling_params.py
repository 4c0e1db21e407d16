"""What a request asks of the sampler. Names and meanings are vLLM's; everything counts tokens.

Loads no torch, so that the server can validate requests and the command line can print help without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hidden_decoding.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """One request's sampling. Raises `RequestError` naming the field when a value cannot work.

    Order of application, as in vLLM's sampler: logit_bias, min_tokens and grammar masks -> repetition, frequency and
    presence penalties -> temperature -> min_p -> top_k -> top_p. Presence and frequency count generated tokens;
    repetition counts prompt and generated tokens. `logprobs` are of the model's distribution before any of this.
    """

    max_tokens: int = field(default=128, metadata={"help": "most tokens to generate"})
    min_tokens: int = field(default=0, metadata={"help": "tokens before an end or stop is allowed"})
    temperature: float = field(default=1.0, metadata={"help": "0 picks the most likely token"})
    top_p: float = field(default=1.0, metadata={"help": "keep the smallest set of tokens with this probability mass"})
    top_k: int = field(default=0, metadata={"help": "keep the k most likely tokens; 0 or -1 keeps all"})
    min_p: float = field(default=0.0, metadata={"help": "drop tokens below this share of the most likely one"})
    presence_penalty: float = field(default=0.0, metadata={"help": "subtracted once from tokens already generated"})
    frequency_penalty: float = field(default=0.0, metadata={"help": "subtracted per earlier occurrence"})
    repetition_penalty: float = field(default=1.0, metadata={"help": "divides logits of tokens seen; 1 is off"})
    seed: int | None = field(default=None, metadata={"help": "same seed and request give the same text"})
    stop: tuple[str, ...] = field(default=(), metadata={"help": "text that ends the answer (repeatable)"})
    stop_token_ids: tuple[int, ...] = field(default=(), metadata={"help": "token id that ends the answer (repeatable)"})
    ignore_eos: bool = field(default=False, metadata={"help": "go on past the model's end token"})
    logit_bias: dict[int, float] = field(default_factory=dict, metadata={"flag": False})
    logprobs: int | None = field(default=None, metadata={"flag": False})
    prompt_logprobs: int | None = field(default=None, metadata={"flag": False})
    # First prompt token to score; what comes before it gets None, and may come from the prefix cache
    logprob_start_len: int = field(default=0, metadata={"flag": False})
    skip_special_tokens: bool = field(default=True, metadata={"flag": False})
    include_stop_str_in_output: bool = field(default=False, metadata={"flag": False})
    # Likeliest tokens to read from every stream of each token that predicts; 0 reads no streams
    stream_lens: int = field(default=0, metadata={"flag": False})
    # A grammar for llguidance: {"json_schema": {...}} or {"json_object": True}
    structured_output: dict[str, object] | None = field(default=None, metadata={"flag": False})

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        checks = (
            ("max_tokens", self.max_tokens >= 1, "a whole number from 1"),
            ("min_tokens", 0 <= self.min_tokens <= self.max_tokens, "from 0 to max_tokens"),
            ("temperature", _finite(self.temperature) and 0 <= self.temperature <= 100, "from 0 to 100"),
            ("top_p", _finite(self.top_p) and 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k >= -1, "-1 or 0 (all), or a whole number from 1"),
            ("min_p", _finite(self.min_p) and 0 <= self.min_p <= 1, "from 0 to 1"),
            ("presence_penalty", _finite(self.presence_penalty) and -2 <= self.presence_penalty <= 2, "from -2 to 2"),
            (
                "frequency_penalty",
                _finite(self.frequency_penalty) and -2 <= self.frequency_penalty <= 2,
                "from -2 to 2",
            ),
            ("repetition_penalty", _finite(self.repetition_penalty) and self.repetition_penalty > 0, "above 0"),
            ("seed", self.seed is None or -(2**63) <= self.seed < 2**63, "a 64-bit whole number"),
            ("stop", all(isinstance(text, str) and text for text in self.stop), "texts of at least one character"),
            ("logprobs", self.logprobs is None or 0 <= self.logprobs <= 100, "from 0 to 100"),
            ("prompt_logprobs", self.prompt_logprobs is None or 0 <= self.prompt_logprobs <= 100, "from 0 to 100"),
            ("logprob_start_len", self.logprob_start_len >= 0, "a number of tokens from 0"),
            ("stream_lens", 0 <= self.stream_lens <= 20, "from 0 to 20"),
            (
                "logit_bias",
                all(_finite(bias) and -100 <= bias <= 100 for bias in self.logit_bias.values()),
                "-100 to 100",
            ),
        )
        for name, fine, allowed in checks:
            if not fine:
                raise RequestError(f"{name} is {getattr(self, name)!r}; it must be {allowed}", param=name)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature < 1e-5


def _finite(value: float) -> bool:
    return math.isfinite(value)
