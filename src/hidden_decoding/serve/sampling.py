"""From a request's fields to the engine's `SamplingParams`: given fields, then the model's defaults, then OpenAI's.

Contract: whatever cannot work is an `ApiError` 400 that names the field and the limit; nothing is corrected silently.

    >>> sampling_params(request, limits, max_tokens=64, sample=0)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hidden_decoding.engines.local.sampling_params import SamplingParams
from hidden_decoding.serve.errors import bad_request, shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hidden_decoding.serve.protocol import GenerationRequest, ResponseFormat

# Fields that go to the engine under the name and with the value they have in the request.
_SAME_NAME = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "min_tokens",
    "ignore_eos",
    "skip_special_tokens",
    "include_stop_str_in_output",
)

# Likeliest tokens per stream in a stream lens.
LENS_GUESSES = 5


@dataclass(frozen=True, kw_only=True)
class ModelLimits:
    """What the loaded model sets: its context in tokens, its vocabulary, and its own sampling defaults."""

    context_tokens: int
    vocabulary: int
    defaults: Mapping[str, Any] = field(default_factory=dict)


def sampling_params(
    request: GenerationRequest, limits: ModelLimits, *, max_tokens: int, sample: int = 0, **extra: Any
) -> SamplingParams:
    """The engine's parameters for sample number `sample` (of n) of one prompt; `extra` are fields the route knows."""
    values: dict[str, Any] = {name: limits.defaults[name] for name in _SAME_NAME if name in limits.defaults}
    for name in _SAME_NAME:
        if (given := getattr(request, name)) is not None:
            values[name] = given
    if request.seed is not None:
        values["seed"] = _wrapped(request.seed + sample)
    if request.stop is not None:
        values["stop"] = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop)
    if request.stream_lens:
        values["stream_lens"] = LENS_GUESSES
    values["stop_token_ids"] = _token_ids(request.stop_token_ids or (), limits, "stop_token_ids")
    values["logit_bias"] = _logit_bias(request.logit_bias or {}, limits)
    if values.get("min_tokens", 0) > max_tokens:
        raise bad_request(
            "min_tokens", f"min_tokens is {values['min_tokens']}, above max_tokens, which is {max_tokens}"
        )
    return SamplingParams(max_tokens=max_tokens, **values, **extra)


def answer_budget(
    asked: int | None,
    limits: ModelLimits,
    *,
    prompt_tokens: int,
    param: str = "max_tokens",
    prompt_param: str = "prompt",
) -> int:
    """Tokens the answer may have: as asked, else the model's default, else the rest of the context."""
    context, room = limits.context_tokens, limits.context_tokens - prompt_tokens
    if room < 1:
        message = (
            f"This model's maximum context length is {context} tokens, prompt and answer together; "
            f"the prompt has {prompt_tokens} tokens. Shorten it."
        )
        raise bad_request(prompt_param, message, code="context_length_exceeded")
    if asked is None:
        return min(room, int(limits.defaults.get("max_tokens") or room))
    if asked > room:
        message = (
            f"This model's maximum context length is {context} tokens; the prompt has {prompt_tokens} tokens, "
            f"so {param} may be at most {room} (it is {asked})."
        )
        raise bad_request(param, message, code="context_length_exceeded")
    return asked


def structured_output(response_format: ResponseFormat | None) -> dict[str, object] | None:
    """The engine's grammar for a `response_format`."""
    if response_format is None or response_format.type == "text":
        return None
    if response_format.type == "json_object":
        return {"json_object": True}
    assert response_format.json_schema is not None, "the request's model checks this"
    return {"json_schema": response_format.json_schema.schema_}


def check_token_ids(token_ids: Sequence[int], limits: ModelLimits, param: str) -> None:
    """Refuses ids outside the vocabulary."""
    if token_ids and max(token_ids) >= limits.vocabulary:
        raise bad_request(
            param, f"{param} holds token id {max(token_ids)}; the vocabulary has ids 0 to {limits.vocabulary - 1}"
        )


def _token_ids(token_ids: Sequence[int], limits: ModelLimits, param: str) -> tuple[int, ...]:
    check_token_ids(token_ids, limits, param)
    return tuple(token_ids)


def _logit_bias(biases: Mapping[str, float], limits: ModelLimits) -> dict[int, float]:
    for key in biases:
        if not (key.isascii() and key.isdigit() and len(key) < 12):
            raise bad_request("logit_bias", f"logit_bias has the key {shown(key)}; keys are token ids, such as '42'")
    by_id = {int(key): bias for key, bias in biases.items()}
    check_token_ids(list(by_id), limits, "logit_bias")
    return by_id


def _wrapped(seed: int) -> int:
    """Stays a signed 64-bit number when `seed + sample` would leave it."""
    return (seed + 2**63) % 2**64 - 2**63
