"""Chat files -> conversations in one form, and what happens to one that cannot be used.

Contract: reads JSONL (one conversation a line), JSON (a list of them) and Parquet (one a row), in two formats:
`{"messages": [{"role", "content"}]}`, where content may also be a list of parts (text, reasoning, tool_call), and
ShareGPT's `{"conversations": [{"from", "value"}]}` with its tool roles `function_call` and `observation`. Both may
carry `tools` (a list, or its JSON as text). What comes out is what a chat template takes: roles system, user, assistant
and tool; reasoning and tool calls in fields of their own; tools in the form in which an API receives them. Whatever
stands after the last assistant turn is dropped: nothing is learned there. A conversation that cannot be used is named
with file and place and refused, or (`Broken(skip=True)`) left out and counted.

Place in the flow: before `chat_tokens.py`, which renders and tokenises. Loads only the standard library, and pyarrow
for Parquet.

    >>> list(conversations_in(Path("chats.jsonl"), Broken(skip=True)))
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hidden_decoding.errors import ConfigError
from hidden_decoding.train.readers import JSONL_SUFFIXES, PARQUET_SUFFIXES, Broken, parquet_rows

ROLES = ("system", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}
SUFFIXES = (*JSONL_SUFFIXES, ".json", *PARQUET_SUFFIXES)
COLUMNS = ("messages", "conversations", "system", "tools")  # of a Parquet file; the others are not read


class UnusableError(Exception):
    """Why one conversation cannot be used; becomes a message with file and place."""


@dataclass(frozen=True)
class Conversation:
    """Messages as a chat template takes them. `learned[i]`: whether message i is an assistant's that carries loss."""

    messages: tuple[dict[str, Any], ...]
    learned: tuple[bool, ...]
    tools: tuple[dict[str, Any], ...]
    place: str


def find_chats(paths: Iterable[str]) -> list[Path]:
    """The files behind `paths`, directories searched in sorted order; refuses what is not there or holds no chats."""
    found = []
    for path in map(Path, paths):
        inside = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES) if path.is_dir() else [path]
        if not path.exists():
            raise ConfigError(
                f"no file or directory {path}: give chats as JSONL, JSON or Parquet, or directories of them"
            )
        if not inside:
            raise ConfigError(f"directory {path} holds no chats: looked for files ending in {', '.join(SUFFIXES)}")
        found += inside
    return found


def conversations_in(file: Path, broken: Broken) -> Iterator[Conversation]:
    """The conversations of one file in order."""
    for place, entry in _entries(file, broken):
        try:
            yield conversation(entry, f"{file}, {place}")
        except UnusableError as error:
            broken.found(file, place, str(error), error)


def conversation(entry: Any, place: str) -> Conversation:
    """One entry of a chat file; raises `UnusableError`."""
    if not isinstance(entry, dict):
        raise UnusableError(f"is {type(entry).__name__}, not a JSON object with messages")
    if isinstance(entry.get("messages"), list):
        pairs = [_message(message) for message in entry["messages"]]
    elif isinstance(entry.get("conversations"), list):
        pairs = [_sharegpt(message) for message in entry["conversations"]]
    else:
        keys = ", ".join(map(repr, entry)) or "none"
        raise UnusableError(f"has neither a list 'messages' nor a list 'conversations' (its keys: {keys})")
    system = entry.get("system")
    if isinstance(system, str) and system and (not pairs or pairs[0][0]["role"] != "system"):
        pairs.insert(0, ({"role": "system", "content": system}, False))
    while pairs and pairs[-1][0]["role"] != "assistant":
        pairs.pop()
    if not pairs:
        raise UnusableError("has no assistant turn, so there is nothing to learn from it")
    if not any(learned for _, learned in pairs):
        raise UnusableError("has loss_weight 0 on every assistant turn, so there is nothing to learn from it")
    messages, learned = zip(*pairs, strict=True)
    return Conversation(tuple(messages), tuple(learned), _tools(entry.get("tools")), place)


def _entries(file: Path, broken: Broken) -> Iterator[tuple[str, Any]]:
    """(place, parsed JSON) of each entry of a file."""
    if file.suffix in PARQUET_SUFFIXES:
        yield from ((place, _without_nulls(row)) for place, row in parquet_rows(file, broken, _columns_of(file)))
        return
    if file.suffix == ".json":
        try:
            parsed = json.loads(file.read_text(encoding="utf-8", errors="replace"))
        except json.JSONDecodeError as error:
            broken.found(file, f"line {error.lineno}", f"is not JSON ({error.msg}); the whole file is lost", error)
            return
        if not isinstance(parsed, list):
            raise ConfigError(f"{file} holds a JSON {type(parsed).__name__}, not a list of conversations")
        yield from ((f"entry {number}", entry) for number, entry in enumerate(parsed, start=1))
        return
    with file.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except json.JSONDecodeError as error:
                broken.found(file, f"line {number}", f"is not JSON ({error.msg}): {line.strip()[:80]!r}", error)
            else:
                yield f"line {number}", entry


def _columns_of(file: Path) -> Callable[[list[str]], list[str]]:
    def found(names: list[str]) -> list[str]:
        if not {"messages", "conversations"} & set(names):
            raise ConfigError(f"{file} has no column 'messages' or 'conversations'; it has {', '.join(names)}")
        return [name for name in COLUMNS if name in names]

    return found


def _without_nulls(value: Any) -> Any:
    """In Parquet every message has the keys of all messages; those it did not have are null."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


# ---------------------------------------------------------------------------------------------------- one message


def _message(given: Any) -> tuple[dict[str, Any], bool]:
    """A message of the `messages` format, and whether it carries loss."""
    role = _role(given, "role", {name: name for name in ROLES})
    message: dict[str, Any] = {"role": role, **_content(given.get("content"), role)}
    for key in ("reasoning_content", "reasoning"):
        if isinstance(given.get(key), str) and given[key]:
            message["reasoning_content"] = given[key]
    if given.get("tool_calls"):
        if role != "assistant" or not isinstance(given["tool_calls"], list):
            raise UnusableError("tool_calls must be a list, in a message of the assistant")
        message["tool_calls"] = [_tool_call(call) for call in given["tool_calls"]]
    if message["content"] is None:
        if not message.get("tool_calls"):
            raise UnusableError(f"has a message of role {role!r} without content")
        message["content"] = ""
    weight = given.get("loss_weight", 1)
    if weight not in (0, 1):
        raise UnusableError(f"has loss_weight {weight!r}; only 0 (no loss) and 1 are known")
    return message, role == "assistant" and weight == 1


def _role(message: Any, key: str, known: dict[str, str]) -> str:
    if not isinstance(message, dict):
        raise UnusableError(f"has a message that is {type(message).__name__}, not an object")
    if key not in message:
        raise UnusableError(f"has a message without {key!r} (its keys: {', '.join(map(repr, message)) or 'none'})")
    role = known.get(message[key]) if isinstance(message[key], str) else None
    if role is None:
        raise UnusableError(f"has a message with {key} {message[key]!r}; known: {', '.join(known)}")
    return role


def _content(content: Any, role: str) -> dict[str, Any]:
    """Text as it is; a list of parts as content, reasoning_content and tool_calls."""
    if content is None or isinstance(content, str):
        return {"content": content}
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise UnusableError(
            f"has content of role {role!r} that is {type(content).__name__}, not text or a list of parts"
        )
    parts: dict[str, list[str]] = {"text": [], "reasoning": [], "tool_call": []}
    for part in content:
        kind, value = part.get("type"), part.get("value", part.get("text"))
        if kind not in parts or not isinstance(value, str):
            raise UnusableError(f"has a content part of type {kind!r}; known, with text: {', '.join(parts)}")
        if kind != "text" and role != "assistant":
            raise UnusableError(f"has a content part of type {kind!r} in a message of role {role!r}")
        parts[kind].append(value)
    message: dict[str, Any] = {"content": "".join(parts["text"])}
    if parts["reasoning"]:
        message["reasoning_content"] = "".join(parts["reasoning"])
    if parts["tool_call"]:
        message["tool_calls"] = [_tool_call(call) for call in parts["tool_call"]]
    return message


def _sharegpt(given: Any) -> tuple[dict[str, Any], bool]:
    """A message of ShareGPT's format, and whether it carries loss."""
    role = _role(given, "from", SHAREGPT_ROLES)
    value = given.get("value")
    if not isinstance(value, str):
        raise UnusableError(f"has a message from {given['from']!r} whose value is {type(value).__name__}, not text")
    if given["from"] != "function_call":
        return {"role": role, "content": value}, role == "assistant"
    calls = _parsed(value, "function_call")
    calls = calls if isinstance(calls, list) else [calls]
    return {"role": role, "content": "", "tool_calls": [_tool_call(call) for call in calls]}, True


def _tool_call(given: Any) -> dict[str, Any]:
    """A call as a template takes it: its arguments as an object."""
    call = _parsed(given, "tool_call") if isinstance(given, str) else given
    call = call.get("function", call) if isinstance(call, dict) else call
    if not isinstance(call, dict) or not isinstance(call.get("name"), str) or "arguments" not in call:
        raise UnusableError(f"has a tool call without name and arguments: {str(given)[:80]!r}")
    arguments = call["arguments"]
    if isinstance(arguments, str):
        arguments = _parsed(arguments, "the arguments of a tool call")
    return {"type": "function", "function": {"name": call["name"], "arguments": arguments}}


def _tools(given: Any) -> tuple[dict[str, Any], ...]:
    """Tool definitions as an API receives them: `{"type": "function", "function": {...}}`."""
    if isinstance(given, str):
        given = _parsed(given, "tools") if given.strip() else None
    if not given:
        return ()
    if not isinstance(given, list) or not all(isinstance(tool, dict) for tool in given):
        raise UnusableError("has tools that are not a list of objects")
    return tuple(tool if "function" in tool else {"type": "function", "function": tool} for tool in given)


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UnusableError(f"has text that is not JSON as {what} ({error.msg}): {text[:80]!r}") from error
