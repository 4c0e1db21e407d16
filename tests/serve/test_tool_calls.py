"""The parser of tool calls: examples by hand, round trips, and the same result for every way to cut the text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hidden_decoding.serve.tool_calls import CallArguments, CallStart, Content, ToolCallParser


def parse(pieces: list[str], *, bare: bool = False) -> tuple[str, list[tuple[str, str]]]:
    """All content, and the calls as (name, arguments)."""
    parser = ToolCallParser(bare=bare)
    content, calls = "", []
    for event in [event for piece in pieces for event in parser.feed(piece)] + parser.finish():
        if isinstance(event, Content):
            content += event.text
        elif isinstance(event, CallStart):
            assert event.index == len(calls)
            calls.append((event.name, ""))
        elif isinstance(event, CallArguments):
            assert event.index == len(calls) - 1
            calls[-1] = (calls[-1][0], calls[-1][1] + event.text)
    return content, calls


ADD = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "}</tool_call>"}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (ADD, "", [("add", '{"a": 1, "b": "}</tool_call>"}')]),
        (f"Let me see.\n\n{ADD}\n{ADD}\n", "Let me see.", [("add", '{"a": 1, "b": "}</tool_call>"}')] * 2),
        ('<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', "", [("f", '{"a": 1}')]),
        ('<tool_call>{"name": "f", "arguments": "{}"}</tool_call>', "", [("f", "{}")]),
        ('<tool_call>{"name": "f"}</tool_call>', "", [("f", "{}")]),
        ('<tool_call>{"name": "f", "arguments": {}}', "", [("f", "{}")]),
        ('<tool_call>{"name": "f", "arguments": {"a": "cut', "", [("f", '{"a": "cut')]),
        ("a\n<tool_call>broken</tool_call> b", "a\n<tool_call>broken</tool_call> b", []),
        ("a <tool_cal", "a <tool_cal", []),
        ("no call  at all \n", "no call  at all \n", []),
        (f"{ADD} a b", "a b", [("add", '{"a": 1, "b": "}</tool_call>"}')]),
    ],
)
def test_known_texts(text, content, calls):
    assert parse([text]) == (content, calls)
    assert parse(list(text)) == (content, calls)


def test_arguments_arrive_while_they_are_written():
    parser = ToolCallParser()
    head, rest = ADD.split('"b"')
    assert parser.feed(head) == [CallStart(0, "add"), CallArguments(0, '{"a": 1, ')]
    assert parser.feed(rest)[0] == CallArguments(0, ': "}</tool_call>"}')


def test_a_grammar_writes_one_call_without_tags():
    assert parse(['{"name":"f","arguments":{"x":[1,2]}}'], bare=True) == ("", [("f", '{"x":[1,2]}')])


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=3)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(lambda name: "<" not in name)


@given(st.lists(st.tuples(NAMES, ARGUMENTS), min_size=1, max_size=3), st.booleans(), st.integers(1, 5))
def test_written_calls_are_read_back(calls, ascii_only, size):
    blocks = [json.dumps({"name": name, "arguments": args}, ensure_ascii=ascii_only) for name, args in calls]
    text = "\n".join(f"<tool_call>\n{block}\n</tool_call>" for block in blocks)
    content, found = parse([text[start : start + size] for start in range(0, len(text), size)])
    assert content == ""
    assert [(name, json.loads(args)) for name, args in found] == calls


FRAGMENTS = st.sampled_from(
    [
        "<tool_call>",
        "</tool_call>",
        '{"name": "f"',
        ', "arguments": ',
        "{",
        "}",
        '{"a": "',
        '"',
        "\\",
        " ",
        "\n",
        "x",
        "<",
    ]
)


@given(st.lists(FRAGMENTS, max_size=14), st.booleans(), st.data())
def test_any_cut_gives_the_same(fragments, bare, data):
    text = "".join(fragments)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = parse([text], bare=bare)
    assert parse(pieces, bare=bare) == whole
    assert parse(list(text), bare=bare) == whole
