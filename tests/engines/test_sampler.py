"""The sampler's final probabilities against a brute-force reference and against transformers' own processors."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from hidden_decoding import SamplingParams
from hidden_decoding.engines.local.detokenizer import Detokenizer
from hidden_decoding.engines.local.request import Request
from hidden_decoding.engines.local.sampler import adjusted_logits, filtered_probabilities, sample, token_logprobs

VOCABULARY = 200


def request(prompt=(1, 2, 3), answer=(), **params) -> Request:
    made = Request(
        request_id="r",
        prompt_token_ids=list(prompt),
        params=SamplingParams(**params),
        detokenizer=Detokenizer(None, []),
        max_total_tokens=100,
        end_token_ids=frozenset({0}),
    )
    for token in answer:
        made.append(token)
    return made


def logits(seed=0, rows=1):
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 4


def final(row, made):
    return filtered_probabilities(adjusted_logits(row, made)[None], [made])[0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("params", "warper"),
    [
        ({"temperature": 0.37}, TemperatureLogitsWarper(0.37)),
        ({"top_k": 17}, TopKLogitsWarper(17)),
        ({"top_k": 1}, TopKLogitsWarper(1)),
        ({"top_p": 0.8}, TopPLogitsWarper(0.8)),
        ({"top_p": 0.05}, TopPLogitsWarper(0.05)),
        ({"min_p": 0.1}, MinPLogitsWarper(0.1)),
        ({"min_p": 1.0}, MinPLogitsWarper(1.0)),
    ],
)
def test_each_filter_equals_transformers(seed, params, warper):
    row = logits(seed)
    expected = warper(None, row.clone()).softmax(-1)[0]
    torch.testing.assert_close(final(row[0], request(**params)), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("penalty", [0.7, 1.3, 2.0])
def test_repetition_equals_transformers_over_prompt_and_answer(penalty):
    row = logits(3)
    seen = torch.tensor([[1, 2, 3, 50, 50, 60]])
    expected = RepetitionPenaltyLogitsProcessor(penalty)(seen, row.clone())[0]
    made = request(answer=(50, 50, 60), repetition_penalty=penalty)
    torch.testing.assert_close(adjusted_logits(row[0], made), expected)


def brute_force(row, prompt, answer, p: SamplingParams, end=0):
    """The same definition written with Python loops, in double precision."""
    scores = [float(value) for value in row.double()]
    for token, bias in p.logit_bias.items():
        scores[token] += bias
    if len(answer) < p.min_tokens:
        for token in {end, *p.stop_token_ids}:
            scores[token] = float("-inf")
    for token in {*prompt, *answer}:
        scores[token] = (
            scores[token] / p.repetition_penalty if scores[token] > 0 else scores[token] * p.repetition_penalty
        )
    for token, count in Counter(answer).items():
        scores[token] -= p.frequency_penalty * count + p.presence_penalty
    scores = torch.tensor(scores, dtype=torch.float64) / p.temperature
    probabilities = scores.softmax(-1)
    scores[probabilities < p.min_p * probabilities.max()] = float("-inf")
    order = sorted(range(len(scores)), key=lambda token: -float(scores[token]))
    if p.top_k > 0:
        scores[torch.tensor(order[p.top_k :], dtype=torch.long)] = float("-inf")
    probabilities, kept, mass = scores.softmax(-1), [], 0.0
    for token in order:
        if mass >= p.top_p:
            break
        kept.append(token)
        mass += float(probabilities[token])
    closed = torch.ones(len(scores), dtype=torch.bool)
    closed[kept] = False
    scores[closed] = float("-inf")
    return scores.softmax(-1).float()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "presence_penalty": 1.5},
        {"temperature": 1.7, "min_p": 0.02, "frequency_penalty": -0.9, "logit_bias": {5: 30.0, 50: -100.0}},
        {"min_tokens": 9, "stop_token_ids": (7, 8), "repetition_penalty": 1.2, "top_p": 0.95},
        {"repetition_penalty": 0.8, "frequency_penalty": 0.5, "presence_penalty": -1.0, "top_k": 3, "top_p": 0.5},
    ],
)
def test_the_final_probabilities_equal_brute_force(seed, params):
    row = logits(seed)[0]
    answer = (50, 51, 50, 9)
    made = request(answer=answer, **params)
    expected = brute_force(row, (1, 2, 3), answer, made.params)
    torch.testing.assert_close(final(row, made), expected, atol=1e-6, rtol=0)


def test_rows_of_a_batch_do_not_touch_each_other():
    rows = logits(1, rows=4)
    made = [request(top_k=5), request(top_p=0.3), request(min_p=0.5), request(temperature=0.2)]
    together = filtered_probabilities(rows, made)
    for row, one, result in zip(rows, made, together, strict=True):
        torch.testing.assert_close(result, filtered_probabilities(row[None], [one])[0], atol=1e-7, rtol=0)


def test_draws_follow_the_probabilities():
    row = logits(2)[0]
    made = request(top_k=4)
    expected = final(row, made)
    generator = torch.Generator().manual_seed(0)
    drawn = Counter(token for _ in range(40) for token in sample(row.expand(200, -1), [made] * 200, generator))
    for token in expected.nonzero().flatten().tolist():
        assert abs(drawn[token] / 8000 - float(expected[token])) < 0.025
    assert sum(drawn[token] for token in expected.nonzero().flatten().tolist()) == 8000


def test_greedy_takes_the_best_after_penalties():
    row = logits(4)[0]
    best, second = row.topk(2).indices.tolist()
    made = request(temperature=0.0, logit_bias={best: -100.0})
    assert sample(torch.stack([row, row]), [request(temperature=0.0), made], torch.Generator()) == [best, second]


def test_logprobs_are_of_the_untouched_distribution():
    row = logits(5)
    expected = row.log_softmax(-1)[0]
    [entry] = token_logprobs(row, [17], 5)
    assert entry.logprob == pytest.approx(float(expected[17]))
    assert [token for token, _ in entry.top] == expected.topk(5).indices.tolist()
