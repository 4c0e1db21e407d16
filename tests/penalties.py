"""Greedy decoding with penalties on brute force's logits: a token seen once counts once, not n times."""

from __future__ import annotations

PENALTIES = [
    {"repetition_penalty": 1.6},
    {"frequency_penalty": 1.5},
    {"presence_penalty": 2.0},
    {"repetition_penalty": 1.2, "frequency_penalty": 0.7, "presence_penalty": 0.9},
]


def penalised(
    brute,
    ids: list[int],
    tokens: int,
    *,
    repetition_penalty: float = 1.0,
    frequency_penalty: float = 0.0,
    presence_penalty: float = 0.0,
    additive_first: bool = False,
    repeats_prompt: bool = True,
) -> tuple[list[int], list[float]]:
    """(tokens, gaps between the two best). vLLM scales first and counts the prompt's tokens as repeated too."""
    generated: list[int] = []
    gaps: list[float] = []
    for _ in range(tokens):
        logits = brute.logits(ids + generated)[-1].clone()

        def scale(logits=logits) -> None:
            for token in set(ids + generated if repeats_prompt else generated):
                positive = logits[token] > 0
                logits[token] = logits[token] / repetition_penalty if positive else logits[token] * repetition_penalty

        if not additive_first:
            scale()
        for token in set(generated):
            logits[token] -= frequency_penalty * generated.count(token) + presence_penalty
        if additive_first:
            scale()
        best = logits.topk(2)
        gaps.append(float(best.values[0] - best.values[1]))
        generated.append(int(best.indices[0]))
    return generated, gaps
