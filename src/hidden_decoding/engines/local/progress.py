"""What a step's result means for its request: the next token, its text, and whether the answer ends.

Contract: changes only the request; the engine frees the KV slots of what ended. Everything counts tokens.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hidden_decoding.engines.local.outputs import Delta
from hidden_decoding.engines.local.sampler import token_logprobs

if TYPE_CHECKING:
    from hidden_decoding.engines.local.request import Request
    from hidden_decoding.engines.local.runner import SpanLogits


def take_result(result: SpanLogits, token_id: int | None) -> Delta | None:
    """Puts a span's result into its request; the delta to hand out, or None while the prompt is still being read."""
    request = result.span.request
    if request.prompt_logprobs is not None:
        _take_prompt_logprobs(request, result)
    if token_id is None:
        return None
    delta = Delta(
        request_id=request.request_id,
        token_ids=[token_id],
        cached_tokens=request.cached_tokens,
        metrics=request.metrics,
    )
    if request.params.logprobs is not None:
        delta.logprobs = token_logprobs(result.logits_RV[-1:], [token_id], request.params.logprobs)
    if result.readout is not None:
        delta.readouts = [result.readout]
    if request.answer_tokens == 0:
        request.metrics.first_token = time.monotonic()
        delta.prompt_logprobs = request.prompt_logprobs
    request.append(token_id)
    if request.grammar is not None:
        request.grammar.accept(token_id)
    delta.finish_reason, delta.stop_reason = _ending(request, token_id)
    # The token that ends an answer is reported, but it is no part of its text.
    shown = [] if _is_stop_token(request, token_id) else [token_id]
    delta.text = request.detokenizer.add(shown, final=delta.finish_reason is not None)
    if request.detokenizer.stopped_by is not None:
        delta.finish_reason, delta.stop_reason = "stop", request.detokenizer.stopped_by
    return delta


def _take_prompt_logprobs(request: Request, result: SpanLogits) -> None:
    """Logits after token i score prompt token i + 1. What is known from before a preemption is not taken again."""
    known = request.prompt_logprobs
    assert known is not None, "only called when prompt log-probabilities were asked for"
    # The rows are those of the span's last tokens.
    first_scored = result.span.start + result.span.count - len(result.logits_RV) + 1
    fresh = range(max(first_scored, len(known)), min(first_scored + len(result.logits_RV), request.prompt_tokens))
    if fresh:
        rows = result.logits_RV[fresh.start - first_scored : fresh.stop - first_scored]
        scored = request.prompt_token_ids[fresh.start : fresh.stop]
        known.extend(token_logprobs(rows, scored, request.params.prompt_logprobs or 0))


def _ending(request: Request, token_id: int) -> tuple[str | None, str | int | None]:
    """`finish_reason` and `stop_reason` after this token; stop strings are the detokenizer's."""
    if _is_stop_token(request, token_id):
        return "stop", token_id if token_id in request.params.stop_token_ids else None
    if request.grammar is not None and request.grammar.finished:
        return "stop", None
    if len(request.token_ids) >= request.max_total_tokens:
        return "length", None
    return None, None


def _is_stop_token(request: Request, token_id: int) -> bool:
    params = request.params
    ends = token_id in request.end_token_ids and not params.ignore_eos
    return request.answer_tokens >= params.min_tokens and (ends or token_id in params.stop_token_ids)
