"""Multiple choice in free text: the letter a text decides for, or the option it names in full.

Contract: one letter or none. A text that names two, denies the one it names, or only lists the options gives none.

    >>> score_option("答案：B", ["甲", "乙"], "B").correct
    True
"""

from __future__ import annotations

import re
import unicodedata

from hidden_decoding.evaluate.scoring.final import (
    Verdict,
    after_not,
    final_segment,
    last_boxed,
    last_line,
    stripped,
    without_thinking,
)

_OPEN, _CLOSE = r"[\s*_`(（【\[\\{$]*", r"[\s*_`)）】\]\\}$]*"
_LEAD = r"(?:option|choice|letter|选项|选择|选|\\text\{|\\textbf\{|\\mathrm\{)?\s*"
# A letter that stands alone. `A` and `I` are words too: then no lower-case word may follow them.
_LETTER = re.compile(rf"^{_OPEN}(?i:{_LEAD}){_OPEN}(?:([A-Z])(?![\w'’])|\(([a-z])\))(?P<rest>.*)", re.DOTALL)
_LINE = re.compile(r"^[\s*_(（]*([A-Z])[*_]*\s*[.)）:：、．]")
_VERDICT = re.compile(
    r"(?:\b[Oo]ption|\b[Cc]hoice|选项)\s*[(（]?([A-Z])[)）]?\s*(?:is|was|为|是)?\s*(?:the\s+)?(?:correct|right|正确)",
    re.DOTALL,
)
_ANOTHER = re.compile(
    r"^[\s*_)）】\]}$\\]*(?:,|，|、|/|;|and\b|or\b|&|和|或|与|及)\s*[(（*]*(?:option\s*)?([A-Z])(?![\w'’])"
)
_DENIAL = re.compile(
    r"(?i)\b(?:not|isn't|never|incorrect|wrong|false|cannot|neither|except)\b|不是|并非|不对|错误|排除|不选"
)


def score_option(text: str, options: list[str], gold: str) -> Verdict:
    """`gold` is a letter, with or without brackets; `options` are the texts of A, B, C, ..."""
    letter = chosen_letter(text, options)
    return Verdict(correct=letter == gold.strip("() "), extracted=letter)


def chosen_letter(text: str, options: list[str]) -> str | None:
    """The letter of the option that the text decides for."""
    text = without_thinking(text)
    letters = [chr(ord("A") + index) for index in range(len(options))]
    if (boxed := last_boxed(text)) is not None:
        return _letter_at(boxed, letters) or _named(boxed, options, letters, whole=True)
    segment = final_segment(text)
    if segment is not None:
        rest = after_not(segment)
        if not rest:
            return None
        return _letter_at(rest, letters) or _named(rest, options, letters, whole=False)
    verdicts = {match.group(1) for match in _VERDICT.finditer(text)}
    if len(verdicts) == 1 and verdicts <= set(letters):
        return verdicts.pop()
    return _from_lines(text, options, letters)


def _letter_at(segment: str, letters: list[str]) -> str | None:
    match = _LETTER.match(segment)
    if match is None:
        return None
    letter, rest = (match.group(1) or match.group(2)).upper(), match.group("rest")
    bare = match.group(1) is not None and not re.search(r"[(（【\[*{]", match.group()[: match.start("rest")])
    if letter in "AI" and bare and re.match(r"\s+(?!because\b|since\b|as\b|for\b|and\b|or\b)[a-z]", rest):
        return None
    if _ANOTHER.match(rest) or letter not in letters:
        return None
    return letter


def _from_lines(text: str, options: list[str], letters: list[str]) -> str | None:
    """No marker: the last line is a letter, one line alone begins like an option, or the text names one option."""
    line = stripped(last_line(text))
    if re.fullmatch(rf"{_OPEN}[A-Z]{_CLOSE}", line):
        return _letter_at(line, letters)
    begun = {match.group(1) for row in text.splitlines() if (match := _LINE.match(row))}
    if len(begun) == 1 and begun <= set(letters):
        return None if _DENIAL.search(last_line(text)) else begun.pop()
    if begun:
        return None
    if len(text.split()) <= 1 or text == line:
        return _letter_at(text, letters) or _named(text, options, letters, whole=False)
    return _named(line, options, letters, whole=False)


def _named(segment: str, options: list[str], letters: list[str], *, whole: bool) -> str | None:
    """The one option whose words the segment is, or holds."""
    said = _plain(segment)
    plain = [_plain(option) for option in options]
    equal = [letter for letter, option in zip(letters, plain, strict=True) if option and option == said]
    if equal:
        return equal[0] if len(equal) == 1 else None
    if whole or _DENIAL.search(segment):
        return None
    held = [index for index, option in enumerate(plain) if len(option) >= 4 and _holds(said, option)]
    # An option that is part of another one that is held too was not what was named.
    held = [index for index in held if not any(index != other and plain[index] in plain[other] for other in held)]
    return letters[held[0]] if len(held) == 1 else None


def _holds(said: str, option: str) -> bool:
    edge = r"(?<!\w){}(?!\w)" if option[0].isascii() else "{}"
    return re.search(edge.format(re.escape(option)), said) is not None


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", stripped(text)).casefold()
    return re.sub(r"\s+", " ", re.sub(r"^\\text\{(.*)\}$", r"\1", text)).strip(" .。")
