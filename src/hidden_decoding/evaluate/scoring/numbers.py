"""Numbers: the one a text gives as its answer, compared as an exact fraction.

>>> score_number("So she makes $18.00 a day.\\n#### 18", "18").correct
True
"""

from __future__ import annotations

import re
from fractions import Fraction

from hidden_decoding.evaluate.scoring.final import (
    Verdict,
    after_not,
    final_segment,
    last_boxed,
    last_line,
    without_thinking,
)

_NUMBER = re.compile(
    r"(?<![\w.])[-−–]?\s?[$€£¥]?\s?(?:\d{1,3}(?:(?:,|\{,\}|\\,)\d{3})+|\d+)(?:\.\d+)?(?:\s?/\s?\d+(?![\d.]))?(?!\.?\d)|(?<![\w.])[-−]?\.\d+"
)


def score_number(text: str, gold: str) -> Verdict:
    """`gold` is a number as text, or ends in `#### number`."""
    found = final_number(text)
    wanted = as_fraction(gold.rpartition("####")[2])
    assert wanted is not None, f"the data set's answer {gold[-40:]!r} is no number"
    return Verdict(correct=found is not None and as_fraction(found) == wanted, extracted=found)


def final_number(text: str) -> str | None:
    """The number a text ends on: in a box or after a marker, else the last one of its last line."""
    text = without_thinking(text)
    if (boxed := last_boxed(text)) is not None and (numbers := _NUMBER.findall(_plain(boxed))):
        return str(numbers[-1]).strip()
    segment = final_segment(text)
    if segment is not None and (numbers := _NUMBER.findall(_plain(_after_equals(after_not(segment))))):
        return str(numbers[0]).strip()
    if segment is not None and not after_not(segment):
        return None
    numbers = _NUMBER.findall(_plain(last_line(text)))
    return str(numbers[-1]).strip() if numbers else None


def as_fraction(text: str) -> Fraction | None:
    """The exact value; thousands separators, currency and trailing units do not count."""
    match = _NUMBER.search(_plain(text))
    if match is None:
        return None
    cleaned = re.sub(r"[^\d./-]", "", match.group().replace("−", "-").replace("–", "-").replace("{,}", ""))
    try:
        return Fraction(cleaned)
    except (ValueError, ZeroDivisionError):
        return None


def _plain(text: str) -> str:
    """LaTeX's currency and thousands signs as plain ones."""
    return text.replace("\\$", "$").replace("\\!", "").replace("{,}", ",").replace("\\%", "%")


def _after_equals(segment: str) -> str:
    """`3 + 4 = 7 apples` -> `7 apples`: a sum is not its answer."""
    head, sign, tail = segment.rpartition("=")
    return (
        tail
        if sign
        and _NUMBER.search(_plain(tail))
        and re.fullmatch(r"[\s\d+\-*/×÷().,$x%]*=?[\s\d+\-*/×÷().,$x%=]*", head)
        else segment
    )
