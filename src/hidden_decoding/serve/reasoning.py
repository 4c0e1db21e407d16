"""Tells thinking from the answer: splits a `<think>...</think>` block off the front of generated text, also in pieces.

Contract: feeding a text in any pieces gives the same two texts as feeding it whole. A block counts only at the very
front (after white space), or when the prompt already opened it; later tags are ordinary text. White space at both ends
of the thinking and at the start of the answer after it belongs to neither.

    >>> splitter = ReasoningSplitter()
    >>> splitter.feed("<think>\\nHm.\\n</think>\\n\\nYes.") + splitter.finish()
    [('reasoning', 'Hm.'), ('content', 'Yes.')]
"""

from __future__ import annotations

from typing import Literal, TypeAlias

OPEN, CLOSE = "<think>", "</think>"
Part: TypeAlias = tuple[Literal["reasoning", "content"], str]


class ReasoningSplitter:
    """State of one answer; `state` is "start" (not yet known), "reasoning" or "content"."""

    def __init__(self, *, opened: bool = False, enabled: bool = True) -> None:
        self.state: Literal["start", "reasoning", "content"] = "start"
        if opened:
            self.state = "reasoning"
        elif not enabled:
            self.state = "content"
        self.found_block = opened
        self._held = ""
        # White space at the current place is dropped until something else comes.
        self._at_front = opened

    def feed(self, text: str) -> list[Part]:
        """Takes the next piece and returns what is certain now."""
        self._held += text
        parts: list[Part] = []
        while (part := self._next()) is not None:
            if part[1]:
                parts.append(part)
        return parts

    def finish(self) -> list[Part]:
        """What was held back, once no more text comes."""
        held, self._held = self._held, ""
        if self.state == "reasoning":
            held = (held.lstrip() if self._at_front else held).rstrip()
            return [("reasoning", held)] if held else []
        if self._at_front:
            held = held.lstrip()
        self.state = "content"
        return [("content", held)] if held else []

    def _next(self) -> Part | None:
        """One certain part (its text may be empty), or None when more text is needed."""
        if self.state == "start":
            return self._start()
        if self._at_front:
            self._held = self._held.lstrip()
            self._at_front = not self._held
        if not self._held:
            return None
        return self._reasoning() if self.state == "reasoning" else self._take("content", len(self._held))

    def _start(self) -> Part | None:
        front = self._held.lstrip()
        if front.startswith(OPEN):
            self._held = front[len(OPEN) :]
            self.state, self._at_front, self.found_block = "reasoning", True, True
            return ("reasoning", "")
        if OPEN.startswith(front):
            return None  # white space only, or the beginning of a tag
        self.state = "content"
        return self._take("content", len(self._held))

    def _reasoning(self) -> Part | None:
        end = self._held.find(CLOSE)
        if end >= 0:
            thought = self._held[:end].rstrip()
            self._held = self._held[end + len(CLOSE) :]
            self.state, self._at_front = "content", True
            return ("reasoning", thought)
        # The end may be the beginning of the closing tag, and white space before the tag belongs to nobody.
        sure = len(self._held[: len(self._held) - partial_tag(self._held, CLOSE)].rstrip())
        return self._take("reasoning", sure) if sure else None

    def _take(self, kind: Literal["reasoning", "content"], size: int) -> Part:
        text, self._held = self._held[:size], self._held[size:]
        return (kind, text)


def partial_tag(text: str, tag: str) -> int:
    """Length of the longest end of `text` that is the beginning (not all) of `tag`."""
    for size in range(min(len(tag) - 1, len(text)), 0, -1):
        if text.endswith(tag[:size]):
            return size
    return 0
