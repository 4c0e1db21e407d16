"""One model's results: a suite's figures with their uncertainty, data, cost and published neighbours, as plain JSON.

Contract: scores are percent (0 ... 100); counts of tokens are tokens, positions are named so. A suite has published
figures only when it ran whole, as published, on the published data; else `no_published_because` says what differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hidden_decoding.evaluate.statistics import Estimate, estimate, spread
from hidden_decoding.streams import tokens_to_positions

if TYPE_CHECKING:
    from hidden_decoding.evaluate.data_sets import DataLabel
    from hidden_decoding.evaluate.pack import Pack, Suite
    from hidden_decoding.evaluate.questions import Answer
    from hidden_decoding.evaluate.scores import Scored
    from hidden_decoding.evaluate.settings import EvalConfig

MOST_DISAGREEMENTS = 50


def suite_result(
    suite: Suite,
    pack: Pack,
    config: EvalConfig,
    label: DataLabel,
    scored: Sequence[Scored],
    answers: Sequence[Answer],
    num_streams: int | None,
) -> dict[str, Any]:
    """Everything the report says about one suite that ran."""
    figure = estimate([entry.scores for entry in scored])
    failed = [answer.error for answer in answers if answer.error]
    reasons = reasons_against(suite, config, label, bool(failed))
    return {
        **suite_head(suite),
        "status": "done",
        "data": asdict(label),
        "score": percent(figure),
        "samples": max(len(entry.scores) for entry in scored),
        "spread": _percent_spread(spread([entry.scores for entry in scored])),
        "failed": len(failed),
        "first_failure": failed[0] if failed else None,
        "cut_short": sum(answer.finish_reason == "length" for answer in answers if answer.logprob is None),
        "shortened_prompts": sum(answer.truncated_tokens > 0 for answer in answers),
        "harness": _means(scored),
        "judged": None,
        "tasks": _per_task(scored),
        "published": None if reasons else dict(zip(pack.columns, suite.published, strict=True)),
        "no_published_because": "; ".join(reasons) or None,
        "cost": cost(answers, num_streams),
        "scores": {entry.key: sum(entry.scores) / len(entry.scores) for entry in scored},
    }


def suite_head(suite: Suite) -> dict[str, Any]:
    """What is known of a suite before it ran."""
    return {
        "name": suite.name,
        "title": suite.title,
        "about": suite.about,
        "shots": suite.shots,
        "scorer": suite.scorer["kind"] if not suite.by_likelihood else suite.scorer["metric"],
        "notes": suite.notes,
    }


def not_run(suite: Suite, reason: str) -> dict[str, Any]:
    """The row of a suite that did not run."""
    return {**suite_head(suite), "status": "not run", "reason": reason}


def reasons_against(suite: Suite, config: EvalConfig, label: DataLabel, failed: bool) -> list[str]:
    """Why no published figure may stand beside this one."""
    reasons = []
    if not label.published:
        reasons.append(label.version)
    if config.limit is not None:
        reasons.append(f"only {config.limit} questions per task")
    if (
        config.max_answer_tokens is not None
        and not suite.by_likelihood
        and config.max_answer_tokens != suite.max_answer_tokens
    ):
        reasons.append(f"answers of at most {config.max_answer_tokens} tokens in place of {suite.max_answer_tokens}")
    if config.samples is not None and config.samples < suite.samples:
        reasons.append(f"{config.samples} samples in place of {suite.samples}")
    if config.thinking:
        reasons.append("thinking was on")
    if failed:
        reasons.append("some questions have no answer")
    return reasons


def judged_result(scored: Sequence[Scored], who: dict[str, Any]) -> dict[str, Any]:
    """The judge's figure beside the rules' one, and where they differ."""
    figure = estimate([[float(verdict or 0.0) for verdict in entry.judged] for entry in scored])
    differing = [
        {
            "task": entry.task,
            "doc": entry.doc_id,
            "sample": index,
            "rules": bool(score),
            "judge": None if verdict is None else bool(verdict),
            "gold": entry.samples[index]["gold"],
            "extracted": entry.samples[index]["extracted"],
            "answer_end": entry.samples[index]["answer"][-300:],
        }
        for entry in scored
        for index, (score, verdict) in enumerate(zip(entry.scores, entry.judged, strict=True))
        if verdict is None or bool(verdict) != bool(score)
    ]
    return {
        **who,
        "score": percent(figure),
        "without_verdict": sum(verdict is None for entry in scored for verdict in entry.judged),
        "disagreements": len(differing),
        "disagreement_list": differing[:MOST_DISAGREEMENTS],
    }


def percent(figure: Estimate) -> dict[str, float]:
    """An estimate in percent, rounded to what can matter."""
    return {
        "mean": round(100 * figure.mean, 3),
        "low": round(100 * figure.low, 3),
        "high": round(100 * figure.high, 3),
        "questions": figure.count,
    }


def cost(answers: Sequence[Answer], num_streams: int | None) -> dict[str, Any]:
    """Tokens, positions and seconds. Positions are those computed: what the prefix cache held cost nothing."""
    prompt = sum(answer.prompt_tokens for answer in answers)
    cached = sum(answer.cached_tokens for answer in answers)
    written = sum(answer.answer_tokens for answer in answers)
    computed = prompt - cached + written
    return {
        "requests": len(answers),
        "prompt_tokens": prompt,
        "cached_tokens": cached,
        "answer_tokens": written,
        "computed_positions": None if num_streams is None else tokens_to_positions(computed, num_streams),
        "seconds": round(sum(answer.wall_seconds for answer in answers), 3),
    }


def _percent_spread(found: dict[str, float] | None) -> dict[str, float] | None:
    return found and {key: value if key == "samples" else round(100 * value, 3) for key, value in found.items()}


def _means(scored: Sequence[Scored]) -> dict[str, float]:
    names = dict.fromkeys(name for entry in scored for name in entry.harness)
    return {name: round(100 * sum(entry.harness.get(name, 0.0) for entry in scored) / len(scored), 3) for name in names}


def _per_task(scored: Sequence[Scored]) -> dict[str, dict[str, float]]:
    tasks: dict[str, list[list[float]]] = {}
    for entry in scored:
        tasks.setdefault(entry.task, []).append(entry.scores)
    return {name: percent(estimate(scores)) for name, scores in tasks.items()}
