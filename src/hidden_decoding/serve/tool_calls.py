"""Tool calls in generated text, as Qwen and Hermes models write them, told from the text around them.

A call is `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`.

Contract: feeding a text in any pieces gives the same calls and the same content as feeding it whole. The arguments are
handed on character for character while they are written, as soon as the name is known. A block that is no call (broken
JSON, no name) comes out as content, exactly as it was written. White space around the blocks is dropped.

    >>> parser = ToolCallParser()
    >>> parser.feed('<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>')
    [CallStart(index=0, name='add'), CallArguments(index=0, text='{"a": 1}')]
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TypeAlias

from hidden_decoding.serve.reasoning import partial_tag

OPEN, CLOSE = "<tool_call>", "</tool_call>"
# The order in which chat templates ask for the two keys. Other orders are read too, once the block is complete.
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)')
_SPACE = " \t\r\n"


@dataclass(frozen=True)
class Content:
    """Text outside all calls."""

    text: str


@dataclass(frozen=True)
class CallStart:
    """A call begins; `index` counts the calls of this answer from 0."""

    index: int
    name: str


@dataclass(frozen=True)
class CallArguments:
    """The next piece of a call's arguments, JSON as text."""

    index: int
    text: str


Event: TypeAlias = Content | CallStart | CallArguments


class JsonObjectScanner:
    """Finds where a JSON object ends, character by character: brackets count only outside strings."""

    def __init__(self) -> None:
        self.depth = 0
        self.in_string = False
        self.escaped = False

    def scan(self, text: str) -> int | None:
        """Index just past the object's last bracket, or None when it goes on."""
        for index, character in enumerate(text):
            if self.escaped:
                self.escaped = False
            elif self.in_string:
                self.escaped = character == "\\"
                self.in_string = character != '"'
            elif character == '"':
                self.in_string = True
            elif character in "{[":
                self.depth += 1
            elif character in "}]":
                self.depth -= 1
                if self.depth == 0:
                    return index + 1
        return None


class ToolCallParser:
    """State of one answer. With `bare`, the whole answer is one call without tags (a grammar wrote it)."""

    def __init__(self, *, bare: bool = False) -> None:
        self.bare = bare
        self.calls = 0
        self._held = ""
        self._state = "head" if bare else "outside"  # outside, head, arguments, tail
        self._scanner = JsonObjectScanner()
        self._space = ""  # white space before the current block
        self._after_call = False

    def feed(self, text: str) -> list[Event]:
        """Takes the next piece and returns what is certain now."""
        self._held += text
        events: list[Event] = []
        while self._step(events):
            pass
        return events

    def finish(self) -> list[Event]:
        """What was held back, once no more text comes. A call cut short keeps the arguments written so far."""
        held, self._held = self._held, ""
        if self._state == "outside":
            return self._content("" if self.calls and held.isspace() else held)
        if self._state == "head":
            return self._whole_block(held, closed=False)
        return []

    def _step(self, events: list[Event]) -> bool:
        """Handles one more certain thing; False when more text is needed."""
        step = {"outside": self._outside, "head": self._head, "arguments": self._arguments, "tail": self._tail}
        return step[self._state](events)

    def _outside(self, events: list[Event]) -> bool:
        if self._after_call:
            self._held = self._held.lstrip(_SPACE)
            self._after_call = not self._held
        start = self._held.find(OPEN)
        before = self._held[:start] if start >= 0 else self._held[: len(self._held) - partial_tag(self._held, OPEN)]
        text = before.rstrip(_SPACE)
        events += self._content(text)
        if start < 0:
            self._held = self._held[len(text) :]
            return False
        self._space = before[len(text) :]
        self._held, self._state = self._held[start + len(OPEN) :], "head"
        return True

    def _head(self, events: list[Event]) -> bool:
        match = _HEAD.match(self._held)
        end = -1 if self.bare else self._held.find(CLOSE)
        if match is not None and not 0 <= end < match.end() and (name := _json_text(match[1])):
            events.append(CallStart(self.calls, name))
            self._held, self._state, self._scanner = self._held[match.end() :], "arguments", JsonObjectScanner()
            return True
        if end < 0:
            return False
        block, self._held = self._held[:end], self._held[end + len(CLOSE) :]
        events += self._whole_block(block, closed=True)
        self._state = "outside"
        return True

    def _arguments(self, events: list[Event]) -> bool:
        end = self._scanner.scan(self._held)
        piece, self._held = self._held[:end], "" if end is None else self._held[end:]
        if piece:
            events.append(CallArguments(self.calls, piece))
        if end is None:
            return False
        self.calls += 1
        self._state = "tail"
        return True

    def _tail(self, _events: list[Event]) -> bool:
        if self.bare:
            self._held = ""
            return False
        end = self._held.find(CLOSE)
        if end < 0:
            return False
        self._held, self._state, self._after_call = self._held[end + len(CLOSE) :], "outside", True
        return True

    def _whole_block(self, block: str, *, closed: bool) -> list[Event]:
        """A complete block that was not streamed: a call in another order of keys, or text that is no call."""
        try:
            call = json.loads(block)
        except (ValueError, RecursionError):
            call = None
        if isinstance(call, dict) and isinstance(call.get("name"), str) and call["name"]:
            arguments = call.get("arguments", call.get("parameters", {}))
            text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
            self.calls += 1
            self._after_call = True
            return [CallStart(self.calls - 1, _sendable(call["name"])), CallArguments(self.calls - 1, _sendable(text))]
        if self.bare:
            return self._content(block)
        return self._content(f"{self._space}{OPEN}{block}{CLOSE if closed else ''}")

    def _content(self, text: str) -> list[Event]:
        return [Content(text)] if text else []


def _json_text(literal: str) -> str | None:
    """The text of a JSON string literal; None when it is broken."""
    try:
        return _sendable(json.loads(literal))
    except ValueError:
        return None


def _sendable(text: str) -> str:
    """JSON escapes can spell half a surrogate pair, which no answer can carry."""
    return text.encode("utf-8", "replace").decode("utf-8")
