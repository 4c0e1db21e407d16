r"""Mathematics: LaTeX against LaTeX, by math-verify; equal after spelling is normalised counts too.

>>> score_mathematics(r"The answer is $\frac12$.", r"0.5").correct
True
"""

from __future__ import annotations

import re

from hidden_decoding.errors import DependencyError
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

SECONDS = 5  # most for reading or comparing one expression

_SPELLING = (
    (r"\\[dt]frac", r"\\frac"),
    (r"\\(?:left|right|displaystyle|,|;|!|:|quad)(?![A-Za-z])", ""),
    (r"\\(?:mathrm|textbf|mathbf|mbox|textrm)\b", r"\\text"),
    (r"\^\s*\{?\\circ\}?|\\degree\b", ""),
    (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
    (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
    (r"\\\$|\\%|[$~]", ""),
    (r"(?<=\d)(?:,|\{,\})(?=\d{3}(?!\d))", ""),
)
_UNIT = re.compile(r"(?<=[\d}])\s*\\text\s*\{\s*[A-Za-z .^\d]*\}\^?\d?\s*$")


def score_mathematics(text: str, gold: str) -> Verdict:
    """`gold` is LaTeX without dollar signs."""
    found = final_expression(text)
    return Verdict(correct=found is not None and equivalent(found, gold), extracted=found)


def score_integer(text: str, gold: str) -> Verdict:
    """A whole number, leading zeros or not (AIME)."""
    found = final_number(text)
    value = None if found is None else as_fraction(found)
    return Verdict(correct=value is not None and value == int(gold), extracted=found)


def final_expression(text: str) -> str | None:
    """The LaTeX (or plain text) that a solution ends on."""
    text = without_thinking(text)
    if (boxed := last_boxed(text)) is not None:
        return boxed
    segment = final_segment(text)
    if segment is not None:
        segment = re.sub(r"\.?\s*I hope it is correct.*$", "", after_not(segment))
        return _inside_dollars(segment) or None
    line = stripped(last_line(text))
    return _inside_dollars(line) or None


def _inside_dollars(segment: str) -> str:
    """The formula of a sentence that holds exactly one; else the sentence."""
    formulas = re.findall(r"(?<!\\)\$+((?:\\.|[^$\\])+)\$+|\\\((.+?)\\\)|\\\[(.+?)\\\]", segment)
    if len(formulas) == 1:
        return str(next(part for part in formulas[0] if part)).strip()
    return stripped(segment)


def equivalent(found: str, gold: str) -> bool:
    """Whether two expressions are the same answer."""
    a, b = normalised(found), normalised(gold)
    if a == b:
        return True
    if _is_word(gold) or _is_word(found):
        return a.casefold() == b.casefold()
    if _brackets(a) != _brackets(b) and "," in b:
        return False  # [1,2] is not (1,2)
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise DependencyError("answers in LaTeX need math-verify; run: pip install 'hidden-decoding[eval]'") from error
    left, right = parse(f"${b}$", parsing_timeout=SECONDS), parse(f"${a}$", parsing_timeout=SECONDS)
    return bool(left and right and verify(left, right, strict=True, timeout_seconds=SECONDS))


def normalised(latex: str) -> str:
    """One spelling for what is written in several ways; white space never counts."""
    latex = stripped(latex)
    latex = re.sub(r"^(?:[a-zA-Z]|\\?[a-zA-Z]\([a-z]\))\s*=\s*", "", latex)
    for pattern, replacement in _SPELLING:
        latex = re.sub(pattern, replacement, latex)
    latex = _UNIT.sub("", latex)
    whole = re.fullmatch(r"\\text\s*\{([^{}]*)\}", latex.strip())
    if whole:
        latex = whole.group(1)
    return re.sub(r"\s+", "", latex).rstrip(".")


def _is_word(latex: str) -> bool:
    """An answer in words (`\\text{Evelyn}`), which has no value."""
    return re.fullmatch(r"\(?\\text\s*\{[^{}\d]*\}\)?", latex.strip()) is not None


def _brackets(text: str) -> tuple[str, str]:
    return (text[:1] if text[:1] in "([" else "", text[-1:] if text[-1:] in ")]" else "")
