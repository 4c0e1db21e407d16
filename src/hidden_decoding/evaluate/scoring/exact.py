"""BBH: exact match of what a text gives as its answer, by the kind of the target.

Contract: options, numbers, lists of words, brackets and single words (True, No, valid) each compare in their own way;
case and punctuation around an answer do not count.
"""

from __future__ import annotations

import re

from hidden_decoding.evaluate.scoring.final import (
    Verdict,
    after_not,
    final_segment,
    last_boxed,
    last_line,
    stripped,
    without_thinking,
)
from hidden_decoding.evaluate.scoring.numbers import as_fraction, final_number
from hidden_decoding.evaluate.scoring.options import chosen_letter

_OPTION = re.compile(r"(?m)^\(([A-Z])\) (.*)$")
_BRACKETS = set("()[]{}<>")


def score_exact(text: str, target: str, question: str) -> Verdict:
    """`question` holds the options, where the target is one."""
    if re.fullmatch(r"\([A-Z]\)", target):
        # Some questions list more options than letters in a row; the texts stand in the order of the letters.
        options = [match.group(2) for match in _OPTION.finditer(question)]
        letter = chosen_letter(text, options)
        return Verdict(correct=letter == target[1], extracted=letter and f"({letter})")
    if re.fullmatch(r"-?\d+", target):
        found = final_number(text)
        return Verdict(correct=found is not None and as_fraction(found) == as_fraction(target), extracted=found)
    said = _said(text)
    if said is None:
        return Verdict(correct=False, extracted=None)
    if set(target) <= _BRACKETS | {" "}:
        match = re.match(r"[\s()\[\]{}<>,]*", said)
        found = re.sub(r"[\s,]", "", match.group() if match else "")
        return Verdict(correct=found == target.replace(" ", ""), extracted=found)
    if " " in target:
        return Verdict(correct=_words(said) == _words(target), extracted=said)
    words = _words(said)
    return Verdict(correct=words[:1] == _words(target) and (len(words) == 1 or not _is_list(said)), extracted=said)


def _said(text: str) -> str | None:
    text = without_thinking(text)
    if (boxed := last_boxed(text)) is not None:
        return stripped(re.sub(r"^\\text\{(.*)\}$", r"\1", boxed))
    segment = final_segment(text)
    if segment is not None:
        return stripped(after_not(segment)) or None
    line = stripped(last_line(text))
    # Without a marker only a bare answer is one: a last sentence of reasoning is not.
    return (
        line
        if line and (text.strip() == last_line(text) or len(line.split()) == 1 or set(line) <= _BRACKETS | {" "})
        else None
    )


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'’-]+", text.casefold())


def _is_list(text: str) -> bool:
    """`yes or no` decides nothing."""
    return re.search(r"(?i)\b(?:or|and)\b", " ".join(text.split()[:3])) is not None
