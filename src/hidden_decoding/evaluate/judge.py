"""A second opinion on answers: any OpenAI-compatible chat model, with cached verdicts and versioned prompts.

Contract: a verdict is stored under a hash of the judge's model, the prompt's version and all it saw, so no answer is
judged twice; what the judge says without a clear verdict counts as wrong and is counted apart. Used by `scores`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from hidden_decoding.evaluate.asking_http import HttpAsker
from hidden_decoding.evaluate.questions import Answer, Question
from hidden_decoding.evaluate.store import Store

_VERDICT = re.compile(r"\b(INCORRECT|CORRECT)\b")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One answer to judge."""

    question: str
    reference: str
    answer: str


@functools.cache
def judge_prompts() -> dict[str, Any]:
    """The judge's prompts and their version."""
    text = (resources.files(__package__) / "packs" / "judge.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


class Judge:
    """Asks `asker`'s model; verdicts live in `directory`/verdicts.jsonl."""

    def __init__(self, asker: HttpAsker, directory: Path) -> None:
        self.asker = asker
        self.store = Store(directory / "verdicts.jsonl")

    def close(self) -> None:
        """Closes the connections and the file of verdicts."""
        self.asker.close()
        self.store.close()

    def describe(self) -> dict[str, Any]:
        """Who judged, for the record."""
        return {"model": self.asker.model, "prompt_version": judge_prompts()["version"]}

    def verdicts(self, cases: Sequence[Case], note: Callable[[], object]) -> list[bool | None]:
        """True, False, or None where the judge gave no clear verdict; one per case. `note` is called per answer."""
        keys = [self._key(case) for case in cases]
        new = {key: case for key, case in zip(keys, cases, strict=True) if key not in self.store}
        questions = {self._question(key, case).key: key for key, case in new.items()}
        asked = [self._question(key, case) for key, case in new.items()]
        for question, answer in self.asker.ask(asked):
            self.store.put(questions[question.key], {"verdict": _verdict(answer), "said": answer.text or answer.error})
            note()
        return [(self.store.get(key) or {}).get("verdict") for key in keys]

    def _key(self, case: Case) -> str:
        seen = [self.asker.model, judge_prompts(), case.question, case.reference, case.answer]
        return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()

    def _question(self, key: str, case: Case) -> Question:
        prompts = judge_prompts()
        answer = case.answer[-prompts["most_answer_characters"] :]
        user = prompts["user"].format(question=case.question, reference=case.reference, answer=answer)
        messages = [{"role": "system", "content": prompts["system"]}, {"role": "user", "content": user}]
        return Question(suite="judge", task=key, doc=0, messages=messages, sampling={**prompts["sampling"], "stop": []})


def _verdict(answer: Answer) -> bool | None:
    """The last verdict the judge wrote."""
    found = _VERDICT.findall(answer.text)
    return None if answer.error or not found else found[-1] == "CORRECT"
