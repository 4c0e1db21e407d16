"""Token counts and times of a request, as they stand in answers. Tokens, never positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hidden_decoding.serve.answers import CompletionTokensDetails, PromptTokensDetails, Usage, UsageMetrics

if TYPE_CHECKING:
    from hidden_decoding.serve.generation import Generation


def usage_of(generation: Generation, *, reasoning_tokens: int = 0, shown_answer: bool = True) -> Usage:
    """Counts so far: each prompt once, all answers; `shown_answer` false when the generated token was only a means."""
    first_samples = [index for index, job in enumerate(generation.jobs) if job.sample == 0]
    prompt = sum(len(generation.jobs[index].token_ids) for index in first_samples)
    answer = sum(generation.answer_tokens) if shown_answer else 0
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=answer,
        total_tokens=prompt + answer,
        prompt_tokens_details=PromptTokensDetails(
            cached_tokens=sum(generation.cached_tokens[index] for index in first_samples)
        ),
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens=reasoning_tokens),
        metrics=_metrics(generation),
    )


def _metrics(generation: Generation) -> UsageMetrics | None:
    first, last = generation.first_token, generation.last_token
    if first is None or last is None:
        return None
    seconds, tokens = last - first, sum(generation.answer_tokens) - len(generation.jobs)
    rate = round(tokens / seconds, 3) if seconds > 0 and tokens > 0 else None
    return UsageMetrics(ttft_ms=round((first - generation.arrived) * 1000, 3), tokens_per_second=rate)
