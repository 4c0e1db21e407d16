"""How sure a figure is: intervals of proportions, of means over repeated samples, and of differences between models.

Contract: pure functions; scores are 0 ... 1, intervals are 95%. The unit of chance is the question: samples of one
question are averaged first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Z95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean and its 95% interval; `count` questions."""

    mean: float
    low: float
    high: float
    count: int


def wilson(right: float, count: int) -> Estimate:
    """A proportion (Wilson, 1927): keeps its coverage near 0 and 1 and for few questions."""
    if count == 0:
        return Estimate(mean=0.0, low=0.0, high=1.0, count=0)
    p, z2 = right / count, Z95**2
    centre = (p + z2 / (2 * count)) / (1 + z2 / count)
    half = Z95 / (1 + z2 / count) * math.sqrt(p * (1 - p) / count + z2 / (4 * count**2))
    return Estimate(mean=p, low=max(0.0, centre - half), high=min(1.0, centre + half), count=count)


def estimate(scores: Sequence[Sequence[float]]) -> Estimate:
    """From the scores of each question's samples: Wilson for one sample each, else the means' standard error."""
    if all(len(samples) == 1 for samples in scores):
        return wilson(sum(samples[0] for samples in scores), len(scores))
    means = [sum(samples) / len(samples) for samples in scores]
    mean, half = _mean_and_half(means)
    return Estimate(mean=mean, low=max(0.0, mean - half), high=min(1.0, mean + half), count=len(means))


def spread(scores: Sequence[Sequence[float]]) -> dict[str, float] | None:
    """Of the table's figure over the samples: sample 1 of every question, sample 2, ...; None for one sample."""
    runs = [sum(samples) / len(samples) for samples in zip(*scores, strict=True)] if scores else []
    if len(runs) < 2:
        return None
    mean = sum(runs) / len(runs)
    deviation = math.sqrt(sum((run - mean) ** 2 for run in runs) / (len(runs) - 1))
    return {"samples": len(runs), "min": min(runs), "max": max(runs), "deviation": deviation}


def difference(first: Mapping[str, float], second: Mapping[str, float]) -> Estimate | None:
    """second - first over the questions both answered (paired); None without any."""
    shared = [second[key] - first[key] for key in first if key in second]
    if not shared:
        return None
    mean, half = _mean_and_half(shared)
    return Estimate(mean=mean, low=mean - half, high=mean + half, count=len(shared))


def _mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, 1.0
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, Z95 * math.sqrt(variance / len(values))
