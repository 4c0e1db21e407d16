"""A whole run: prepares the questions, asks each once, scores, and writes one model's results.

Contract: the directory of a model holds run.json (what was asked, of whom), responses.jsonl (answers as they came),
verdicts.jsonl (the judge's), samples.jsonl (every prompt, answer and score) and results.json. A second run with the
same directory asks only what has no answer yet, and ends in the same table. A directory of another model or engine is
refused.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hidden_decoding.errors import ConfigError
from hidden_decoding.evaluate.data_sets import DataLabel, DataSource
from hidden_decoding.evaluate.harness import harness_version, quiet_harness, ready_tasks
from hidden_decoding.evaluate.judge import Case, Judge
from hidden_decoding.evaluate.models import Opened
from hidden_decoding.evaluate.pack import Pack, Suite
from hidden_decoding.evaluate.questions import Answer, Asking, Item, items_of
from hidden_decoding.evaluate.results import judged_result, not_run, suite_result
from hidden_decoding.evaluate.scores import Scored, judge_question, score_item
from hidden_decoding.evaluate.settings import EvalConfig
from hidden_decoding.evaluate.store import Store


@dataclass(kw_only=True)
class Prepared:
    """A suite with its questions, or the reason why it cannot run."""

    suite: Suite
    items: list[Item]
    label: DataLabel | None = None
    yaml_sha256: dict[str, str] | None = None
    reason: str = ""


def prepare(pack: Pack, config: EvalConfig, *, progress: bool) -> list[Prepared]:
    """The questions of all suites. A suite that was named must be able to run; one that was not is left out by name."""
    harness_version()
    source = DataSource(config.data)
    asking = Asking(
        limit=config.limit,
        seed=config.seed,
        samples=config.samples,
        max_answer_tokens=config.max_answer_tokens,
        thinking=config.thinking,
    )
    chosen = pack.chosen(config.suite)
    prepared = []
    for suite in tqdm(chosen, desc="preparing", unit="suite", disable=not progress, file=sys.stderr):
        if suite.scorer["kind"] == "code" and not config.allow_code_execution:
            reason = "it runs programs that a model wrote; allow that (in a sandbox) with --allow-code-execution"
            prepared.append(_left_out(suite, config, ConfigError(f"{suite.title}: {reason}")))
            continue
        try:
            prepared.append(_prepared(suite, pack, source, config, asking))
        except ConfigError as error:
            prepared.append(_left_out(suite, config, error))
    if not any(entry.items for entry in prepared):
        raise ConfigError("no suite can run: " + "; ".join(entry.reason for entry in prepared))
    return prepared


def _left_out(suite: Suite, config: EvalConfig, error: ConfigError) -> Prepared:
    if config.suite:
        raise error
    return Prepared(suite=suite, items=[], reason=str(error))


def _prepared(suite: Suite, pack: Pack, source: DataSource, config: EvalConfig, asking: Asking) -> Prepared:
    if suite.scorer["kind"] == "code":
        from hidden_decoding.evaluate.sandbox import check_sandbox

        check_sandbox()
    tasks = ready_tasks(suite, source, seed=config.seed)
    with quiet_harness():
        items = [item for task in tasks for item in items_of(task, suite, pack, asking)]
    return Prepared(
        suite=suite,
        items=items,
        label=source.label(suite.data, list(dict.fromkeys(task.subset for task in tasks))),
        yaml_sha256={task.name: task.yaml_sha256 for task in tasks},
    )


# ------------------------------------------------------------------------------------------------------------ asking


def evaluate_model(
    opened: Opened, pack: Pack, prepared: Sequence[Prepared], config: EvalConfig, directory: Path, *, progress: bool
) -> dict[str, Any]:
    """Asks, scores and writes; returns what stands in results.json."""
    if pack.chat:
        opened.asker.check_chat()
    head = _head(opened, pack, config)
    _claim(directory, head)
    judge = _judge(config, directory)
    store = Store(directory / "responses.jsonl")
    try:
        ask_all(opened, prepared, store, progress=progress)
        rows, samples = [], []
        for entry in prepared:
            row, scored = _row(entry, pack, config, store, opened.asker.num_streams, judge, progress=progress)
            rows.append(row)
            samples += [sample for one in scored for sample in one.samples]
    finally:
        store.close()
        if judge is not None:
            judge.close()
    results = {**head, "judge": judge.describe() if judge else None, "suites": rows}
    _write_lines(directory / "samples.jsonl", samples)
    (directory / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return results


def ask_all(opened: Opened, prepared: Sequence[Prepared], store: Store, *, progress: bool) -> None:
    """Every question that has no answer yet, suite by suite, with the time left on standard error."""
    pending = [
        [question for item in entry.items for question in item.questions if question.key not in store]
        for entry in prepared
    ]
    total = sum(len(item.questions) for entry in prepared for item in entry.items)
    left = sum(map(len, pending))
    bar = tqdm(
        total=total, initial=total - left, unit="answer", desc=opened.spec.short, disable=not progress, file=sys.stderr
    )
    with bar:
        for entry, questions in zip(prepared, pending, strict=True):
            bar.set_postfix_str(entry.suite.title)
            for question, answer in opened.asker.ask(questions):
                store.put(question.key, asdict(answer))
                bar.update()


def _row(
    entry: Prepared,
    pack: Pack,
    config: EvalConfig,
    store: Store,
    num_streams: int | None,
    judge: Judge | None,
    *,
    progress: bool,
) -> tuple[dict[str, Any], list[Scored]]:
    if not entry.items or entry.label is None:
        return not_run(entry.suite, entry.reason), []
    answers = [[_answer(store, question.key) for question in item.questions] for item in entry.items]
    scored = []
    bar = tqdm(
        entry.items,
        desc=f"scoring {entry.suite.title}",
        unit="question",
        disable=not progress,
        file=sys.stderr,
        leave=False,
    )
    with quiet_harness():
        for item, given in zip(bar, answers, strict=True):
            scored.append(score_item(item, given, entry.suite))
    flat = [answer for given in answers for answer in given]
    row = suite_result(entry.suite, pack, config, entry.label, scored, flat, num_streams)
    row["yaml_sha256"] = entry.yaml_sha256
    if entry.suite.judged and judge is not None:
        _judge_all(entry, scored, answers, judge, progress=progress)
        row["judged"] = judged_result(scored, judge.describe())
    return row, scored


def _answer(store: Store, key: str) -> Answer:
    stored = store.get(key)
    assert stored is not None, f"question {key} was asked and has no answer"
    return Answer(**stored)


# ------------------------------------------------------------------------------------------------------------- judge


def _judge(config: EvalConfig, directory: Path) -> Judge | None:
    if config.judge_url is None:
        return None
    from hidden_decoding.evaluate.asking_http import HttpAsker

    asker = HttpAsker(
        config.judge_url, model=config.judge_model, api_key=config.judge_api_key, concurrency=config.concurrency
    )
    return Judge(asker, directory)


def _judge_all(
    entry: Prepared, scored: Sequence[Scored], answers: Sequence[Sequence[Answer]], judge: Judge, *, progress: bool
) -> None:
    cases = [
        Case(question=judge_question(item), reference=one.samples[index]["gold"], answer=answer.text)
        for item, one, given in zip(entry.items, scored, answers, strict=True)
        for index, answer in enumerate(given)
    ]
    with tqdm(
        total=len(cases), desc=f"judging {entry.suite.title}", unit="answer", disable=not progress, file=sys.stderr
    ) as bar:
        verdicts = iter(judge.verdicts(cases, bar.update))
    for one in scored:
        for sample in one.samples:
            verdict = next(verdicts)
            one.judged.append(None if verdict is None else float(verdict))
            sample["judged"] = verdict


# ------------------------------------------------------------------------------------------------------------ record


def _head(opened: Opened, pack: Pack, config: EvalConfig) -> dict[str, Any]:
    """What was asked, of whom, with what: the record beside the figures. Keys never go into it."""
    hidden = ("api_key", "judge_api_key", "out", "data", "tokenizer")
    settings = {key: value for key, value in asdict(config).items() if key not in hidden}
    return {
        "schema": 1,
        "table": pack.table,
        "pack": {"version": pack.version, "sha256": pack.sha256},
        "model": opened.spec.short,
        "role": opened.spec.role,
        "streams": opened.asker.num_streams,
        "fingerprint": opened.fingerprint,
        "chat_template": opened.chat_template if pack.chat else None,
        "engine": opened.asker.describe(),
        "settings": settings,
        "sampling": pack.sampling,
        "harness": harness_version(),
        "versions": {name: metadata.version(name) for name in ("hidden-decoding", "torch", "transformers")},
        "columns": pack.columns,
    }


def _claim(directory: Path, head: dict[str, Any]) -> None:
    """Takes the directory for this model, or goes on in it; refuses one that holds another's answers."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "run.json"
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{path} is not JSON ({error}); choose another --out") from error
        for key in ("table", "fingerprint"):
            if before.get(key) != head[key]:
                raise ConfigError(
                    f"{directory} holds the answers of another run ({key} {str(before.get(key))[:24]!r}, now "
                    f"{str(head[key])[:24]!r}); choose another --out"
                )
    path.write_text(json.dumps(head, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
