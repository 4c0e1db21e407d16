"""From answers to scored samples: the suite's own scorer, and the harness's metrics beside it.

Contract: one `Scored` per document, with one score per sample; an answer that failed (or was refused) scores 0 and is
counted. Everything needed to check a score by hand is in `samples`. Used by `results`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hidden_decoding.evaluate.scoring.exact import score_exact
from hidden_decoding.evaluate.scoring.final import Verdict, last_boxed
from hidden_decoding.evaluate.scoring.numbers import score_number
from hidden_decoding.evaluate.scoring.options import score_option

if TYPE_CHECKING:
    from hidden_decoding.evaluate.pack import Suite
    from hidden_decoding.evaluate.questions import Answer, Item


@dataclass(kw_only=True)
class Scored:
    """A document's scores (0 or 1 per sample), the judge's (None without one), and what stands in samples.jsonl."""

    task: str
    doc_id: int
    scores: list[float]
    judged: list[float | None] = field(default_factory=list)
    harness: dict[str, float] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def key(self) -> str:
        """The same question in every model's results."""
        return f"{self.task}/{self.doc_id}"


def score_item(item: Item, answers: Sequence[Answer], suite: Suite) -> Scored:
    """Scores one document; `answers` belong to its questions, in order."""
    if suite.by_likelihood:
        return _by_likelihood(item, answers, suite)
    scored = Scored(task=item.task.name, doc_id=item.doc_id, scores=[])
    for question, answer in zip(item.questions, answers, strict=True):
        verdict = Verdict(correct=False, extracted=None) if answer.error else verdict_of(suite, item.doc, answer.text)
        scored.scores.append(float(verdict.correct))
        scored.samples.append(
            {
                "suite": suite.name,
                "task": item.task.name,
                "doc": item.doc_id,
                "sample": question.sample,
                "prompt": question.prompt if question.messages is None else question.messages,
                "sampling": question.sampling,
                "answer": answer.text,
                "reasoning": answer.reasoning,
                "finish_reason": answer.finish_reason,
                "error": answer.error,
                "extracted": verdict.extracted,
                "gold": gold_of(suite, item.doc),
                "score": float(verdict.correct),
            }
        )
    if suite.harness_metrics:
        scored.harness = harness_metrics(item, [answer.text for answer in answers])
    return scored


def verdict_of(suite: Suite, doc: dict[str, Any], text: str) -> Verdict:
    """The suite's scorer on one answer."""
    kind = suite.scorer["kind"]
    gold = gold_of(suite, doc)
    if kind == "number":
        return score_number(text, gold)
    if kind == "exact":
        return score_exact(text, gold, doc["input"])
    if kind == "option":
        return score_option(text, options_of(suite, doc), gold)
    if kind == "code":
        from hidden_decoding.evaluate.scoring.code import score_code

        return score_code(text, doc)
    from hidden_decoding.evaluate.scoring.mathematics import score_integer, score_mathematics

    return score_integer(text, gold) if suite.scorer.get("integer") else score_mathematics(text, gold)


def gold_of(suite: Suite, doc: dict[str, Any]) -> str:
    """The reference answer as text."""
    rule = suite.scorer
    if rule["kind"] == "code":
        return str(doc["code"])
    if "gold_boxed_in" in rule:
        return last_boxed(doc[rule["gold_boxed_in"]].replace("\\boxed ", "\\boxed")) or str(doc["answer"])
    return str(doc[rule["gold"]])


def options_of(suite: Suite, doc: dict[str, Any]) -> list[str]:
    """The options' texts in the order of their letters."""
    names = suite.scorer["options"]
    return [str(doc[name]) for name in names] if isinstance(names, list) else [str(text) for text in doc[names]]


def _by_likelihood(item: Item, answers: Sequence[Answer], suite: Suite) -> Scored:
    """The harness's own metrics; the suite says which one is the score."""
    failed = [answer.error for answer in answers if answer.error]
    results = [(answer.logprob, answer.greedy) for answer in answers]
    metrics = {} if failed else item.task.task.process_results(item.doc, results)
    score = float(metrics.get(suite.scorer["metric"], 0.0))
    sample = {
        "suite": suite.name,
        "task": item.task.name,
        "doc": item.doc_id,
        "sample": 0,
        "prompt": item.questions[0].prompt,
        "continuations": [question.continuation for question in item.questions],
        "logprobs": [answer.logprob for answer in answers],
        "gold": item.task.task.doc_to_target(item.doc),
        "error": failed[0] if failed else None,
        "score": score,
    }
    numbers = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
    return Scored(task=item.task.name, doc_id=item.doc_id, scores=[score], harness=numbers, samples=[sample])


def harness_metrics(item: Item, texts: list[str]) -> dict[str, float]:
    """The harness's own filters and metrics, averaged over samples: `exact_match,strict-match` and the like."""
    from lm_eval.api.instance import Instance

    task = item.task.task
    sums: dict[str, float] = {}
    for text in texts:
        instance = Instance(
            request_type="generate_until", doc=item.doc, arguments=("", {}), idx=0, metadata=(item.task.name, 0, 1)
        )
        instance.resps = [text]
        task._instances = [instance]
        task.apply_filters()
        for name, filtered in instance.filtered_resps.items():
            for metric, value in task.process_results(item.doc, [filtered]).items():
                sums[f"{metric},{name}"] = sums.get(f"{metric},{name}", 0.0) + float(value)
    return {name: value / len(texts) for name, value in sums.items()}


def judge_question(item: Item) -> str:
    """What the judge reads as the question: the last turn, without few-shot examples."""
    question = item.questions[0]
    if question.messages is not None:
        return question.messages[-1]["content"]
    return str(item.doc.get("problem") or item.doc.get("question") or question.prompt)
