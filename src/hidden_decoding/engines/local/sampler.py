"""From logits to the next token of each request. Knows requests, not positions.

Order (vLLM's): logit_bias, min_tokens and grammar; repetition, frequency, presence penalties; temperature; min_p;
top_k; top_p. Log-probabilities reported are of the model's own distribution, before any of it. A request's own
generator makes its draws independent of its neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hidden_decoding.engines.local.outputs import TokenLogprob

if TYPE_CHECKING:
    from torch import Tensor

    from hidden_decoding.engines.local.request import Request


def adjusted_logits(logits_V: Tensor, request: Request) -> Tensor:
    """Biases, bans and penalties of one request on a copy of its logits [V]."""
    params = request.params
    logits_V = logits_V.clone()
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias), device=logits_V.device)
        logits_V[ids] += torch.tensor(list(params.logit_bias.values()), dtype=logits_V.dtype, device=logits_V.device)
    if request.answer_tokens < params.min_tokens:
        ends = request.end_token_ids | set(params.stop_token_ids)
        logits_V[torch.tensor(sorted(ends), dtype=torch.long, device=logits_V.device)] = -torch.inf
    if request.grammar is not None:
        request.grammar.mask(logits_V)
    if params.repetition_penalty != 1.0:
        seen = torch.tensor(sorted(set(request.token_ids)), device=logits_V.device)
        values = logits_V[seen]
        factor = params.repetition_penalty
        logits_V[seen] = torch.where(values > 0, values / factor, values * factor)
    if request.answer_counts and (params.frequency_penalty or params.presence_penalty):
        ids = torch.tensor(list(request.answer_counts), device=logits_V.device)
        counts = torch.tensor(list(request.answer_counts.values()), dtype=logits_V.dtype, device=logits_V.device)
        logits_V[ids] -= params.frequency_penalty * counts + params.presence_penalty
    return logits_V


def _needs_adjusting(request: Request) -> bool:
    params = request.params
    return bool(
        params.logit_bias
        or request.answer_tokens < params.min_tokens
        or request.grammar is not None
        or params.repetition_penalty != 1.0
        or params.frequency_penalty
        or params.presence_penalty
    )


def filtered_probabilities(logits_RV: Tensor, requests: list[Request]) -> Tensor:
    """Final probabilities [R, V]: temperature, min_p, top_k and top_p of each row's request (greedy rows excepted)."""

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=logits_RV.dtype, device=logits_RV.device).unsqueeze(1)

    params = [request.params for request in requests]
    logits_RV = logits_RV / column([1.0 if p.greedy else p.temperature for p in params])
    if any(p.min_p > 0 for p in params):
        probabilities = logits_RV.softmax(-1)
        floor = column([p.min_p for p in params]) * probabilities.amax(-1, keepdim=True)
        logits_RV = logits_RV.masked_fill(probabilities < floor, -torch.inf)
    if any(p.top_k > 0 or p.top_p < 1 for p in params):
        logits_RV = _top_k_top_p(
            logits_RV, params_top_k=[p.top_k for p in params], top_p=column([p.top_p for p in params])
        )
    return logits_RV.softmax(-1)


def _top_k_top_p(logits_RV: Tensor, params_top_k: list[int], top_p: Tensor) -> Tensor:
    """Keeps the k largest, then the smallest set with mass top_p; at least one token stays. Ties at k all stay."""
    vocabulary = logits_RV.shape[-1]
    ascending, order = logits_RV.sort(dim=-1)
    keep = [vocabulary if k <= 0 else min(k, vocabulary) for k in params_top_k]
    threshold = ascending.gather(1, torch.tensor(keep, device=logits_RV.device).unsqueeze(1).neg() + vocabulary)
    ascending = ascending.masked_fill(ascending < threshold, -torch.inf)
    mass_up_to = ascending.softmax(-1).cumsum(-1)
    outside = mass_up_to <= 1 - top_p
    outside[:, -1] = False
    # top_p = 1 must keep everything, also where the running sum has not reached 0 in floating point.
    outside &= top_p < 1
    ascending = ascending.masked_fill(outside, -torch.inf)
    return torch.empty_like(ascending).scatter_(1, order, ascending)


def sample(logits_RV: Tensor, requests: list[Request], shared_generator: torch.Generator) -> list[int]:
    """The next token of each request from its last logits [R, V]."""
    rows = [
        adjusted_logits(logits_V, request) if _needs_adjusting(request) else logits_V
        for logits_V, request in zip(logits_RV, requests, strict=True)
    ]
    adjusted_RV = torch.stack(rows)
    chosen = adjusted_RV.argmax(-1)
    drawn = [index for index, request in enumerate(requests) if not request.params.greedy]
    if drawn:
        drawers = [requests[index] for index in drawn]
        probabilities = filtered_probabilities(adjusted_RV[drawn], drawers)
        # A race of exactly 0 would turn an impossible token into 0 / 0.
        tiny = torch.finfo(probabilities.dtype).tiny
        # Exponential races: argmax of p / Exp(1) draws from p, one independent stream of numbers per request.
        races = torch.stack(
            [
                torch.empty_like(row).exponential_(generator=request.generator or shared_generator).clamp_min_(tiny)
                for row, request in zip(probabilities, drawers, strict=True)
            ]
        )
        chosen[drawn] = (probabilities / races).argmax(-1)
    return [int(token) for token in chosen]


def token_logprobs(logits_RV: Tensor, token_ids: list[int], count: int) -> list[TokenLogprob]:
    """Log-probabilities of given next tokens under the model's own logits, with the `count` likeliest alternatives."""
    logprobs_RV = logits_RV.log_softmax(-1)
    chosen = logprobs_RV.gather(1, torch.tensor(token_ids, device=logits_RV.device).unsqueeze(1)).squeeze(1).tolist()
    best = logprobs_RV.topk(min(count, logprobs_RV.shape[-1]), dim=-1)
    return [
        TokenLogprob(token_id=token, logprob=logprob, top=tuple(zip(ids, values, strict=True)))
        for token, logprob, ids, values in zip(
            token_ids, chosen, best.indices.tolist(), best.values.tolist(), strict=True
        )
    ]
