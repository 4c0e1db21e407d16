"""Where the final answer of a text stands: after a marker, in a box, or in its last line.

Contract: pure functions over text. `final_segment` is what follows the last marker, up to the end of its line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_THINKING = re.compile(r"(?s)<think>.*?</think>|^.*?</think>")
_MARKER = re.compile(
    r"""(?ix)
    (?: \b(?:final\ |correct\ |right\ |best\ )? (?:answer|choice|option)
        (?: \ to\ (?:the|this)\ (?:question|problem) )?
        [*_]* \s* (?: [:：=] | \b(?:is|are|would\ be|must\ be|should\ be)\b )+ (?:\ (?:therefore|thus|simply|clearly))?
    | \#\#\#\# (?:\ ?answer\s*[:：])?
    | (?:最终|正确|标准)?(?:答案|选项) [*_]* \s* (?: [:：=] | 是 | 为 | 应该?[是为] | 应选 | 选 )+
    | (?:答案|选项) (?=不是|并非|不为)
    | (?:故|因此|所以|应|应该|本题)选 (?:择|项)? \s* [:：]?
    ) \s* [:：]? \s*
    """
)
_EDGE = " \t\r\n*_`\"'“”‘’「」"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether an answer is right, and what was taken for the answer (None: the text gives none)."""

    correct: bool
    extracted: str | None


def without_thinking(text: str) -> str:
    """The text after its thinking. A block that never ends leaves nothing."""
    text = _THINKING.sub("", text)
    return text.partition("<think>")[0].strip()


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}`, braces matched."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    depth, begin = 0, text.index("{", start)
    for index in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0) * (text[index - 1] != "\\")
        if depth == 0:
            return text[begin + 1 : index].strip()
    return None


def final_segment(text: str) -> str | None:
    """What follows the last marker of an answer, to the end of its line (the next one when nothing follows)."""
    marks = list(_MARKER.finditer(text))
    if not marks:
        return None
    rest = text[marks[-1].end() :].strip(_EDGE)
    line = rest.partition("\n")[0].strip()
    return line.strip(_EDGE) or None


def last_line(text: str) -> str:
    """The last line that is not empty."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def stripped(text: str) -> str:
    """Without quotes, emphasis, dollar signs and a final stop."""
    before = None
    while text != before:
        before, text = text, text.strip(_EDGE + "$").rstrip(".。!！,，;；").strip()
    return text


def after_not(segment: str) -> str:
    """`not 18 but 19` -> `19`; without a `but`, nothing remains of a denial."""
    if not re.match(r"(?i)(?:definitely |certainly |surely )?(?:not\b|n't\b|不是|并非|不为)", segment):
        return segment
    return (
        re.split(r"(?i)\bbut(?: rather)?\b|\brather\b|而是|而为|\binstead\b", segment, maxsplit=1)[1].strip(" ,:")
        if re.search(r"(?i)\bbut\b|\brather\b|而是|而为|\binstead\b", segment)
        else ""
    )
