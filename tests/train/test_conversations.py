"""Chat files of every known form become the same messages; what cannot be used is named with its place."""

from __future__ import annotations

import json

import pyarrow
import pytest
from pyarrow import parquet

from hidden_decoding.errors import ConfigError
from hidden_decoding.train.conversations import conversations_in, find_chats
from hidden_decoding.train.readers import Broken
from tests.train.chats import TOOL

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
CALL = {"type": "function", "function": {"name": "look_up", "arguments": {"word": "x"}}}


def read(tmp_path, entry, suffix="jsonl"):
    path = tmp_path / f"chats.{suffix}"
    path.write_text(json.dumps([entry] if suffix == "json" else entry), encoding="utf-8")
    return next(conversations_in(path, Broken()))


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_messages_and_sharegpt_are_the_same(tmp_path, suffix):
    call = json.dumps(CALL["function"])
    ours = read(
        tmp_path,
        {
            "messages": [USER, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "1"}, ANSWER],
            "tools": [{"type": "function", "function": TOOL}],
        },
        suffix,
    )
    sharegpt = [("human", "Hi"), ("function_call", call), ("observation", "1"), ("gpt", "Hello")]
    theirs = read(
        tmp_path,
        {"conversations": [{"from": a, "value": b} for a, b in sharegpt], "tools": json.dumps([TOOL])},
        suffix,
    )
    assert ours.messages == theirs.messages
    assert ours.tools == theirs.tools == ({"type": "function", "function": TOOL},)
    assert theirs.messages[1]["tool_calls"] == [CALL]
    assert theirs.learned == (False, True, False, True)


def test_parts_of_content_and_weights(tmp_path):
    parts = [{"type": "reasoning", "value": "Hm."}, {"type": "tool_call", "value": json.dumps(CALL["function"])}]
    first = {"role": "assistant", "content": parts, "loss_weight": 0.0}
    found = read(tmp_path, {"messages": [USER, first, {"role": "tool", "content": "1"}, ANSWER]})
    assert found.messages[1]["reasoning_content"] == "Hm."
    assert found.messages[1]["tool_calls"] == [CALL]
    assert found.learned == (False, False, False, True)


def test_what_follows_the_last_answer_is_dropped(tmp_path):
    assert read(tmp_path, {"messages": [USER, ANSWER, USER]}).messages == (USER, ANSWER)
    assert read(tmp_path, {"conversations": [{"from": "gpt", "value": "x"}], "system": "S"}).messages[0] == {
        "role": "system",
        "content": "S",
    }


def test_parquet_holds_what_jsonl_holds(tmp_path):
    """In Parquet every message has the keys of all; absent ones come back as nulls and must count for nothing."""
    rows = [
        {"messages": [{**USER, "loss_weight": 1}, {"role": "assistant", "tool_calls": [CALL]}, ANSWER], "id": 7},
        {"messages": [USER, {**ANSWER, "reasoning_content": "Hm."}, USER], "tools": json.dumps([TOOL]), "id": 8},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "system": "S"},
    ]
    lines, table = tmp_path / "chats.jsonl", tmp_path / "folder" / "chats.parquet"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    table.parent.mkdir()
    names = {name for row in rows for name in row}
    parquet.write_table(pyarrow.Table.from_pylist([dict.fromkeys(names) | row for row in rows]), table)
    ours, theirs = (list(conversations_in(file, Broken())) for file in (table, lines))
    assert [chat.place for chat in ours] == [f"{table}, row {number}" for number in (1, 2, 3)]
    for one, other in zip(ours, theirs, strict=True):
        assert (one.messages, one.learned, one.tools) == (other.messages, other.learned, other.tools)
    assert find_chats([str(table.parent)]) == [table]


def test_parquet_that_cannot_be_read(tmp_path):
    other, torn = tmp_path / "other.parquet", tmp_path / "torn.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([{"text": "x"}]), other)
    with pytest.raises(ConfigError, match=r"no column 'messages' or 'conversations'; it has text"):
        list(conversations_in(other, Broken()))
    torn.write_bytes(other.read_bytes()[:-20])
    with pytest.raises(ConfigError, match=r"torn.parquet, row 1 and all after it: the Parquet file is cut off"):
        list(conversations_in(torn, Broken()))
    broken = Broken(skip=True)
    assert (list(conversations_in(torn, broken)), broken.count) == ([], 1)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ([1], "not a JSON object"),
        ({"instruction": "x", "output": "y"}, "its keys: 'instruction', 'output'"),
        ({"messages": [USER]}, "no assistant turn"),
        ({"messages": []}, "no assistant turn"),
        ({"messages": [{"content": "x"}]}, "without 'role'"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role 'robot'; known: system, user, assistant, tool"),
        ({"messages": [{"role": "user"}, ANSWER]}, "without content"),
        ({"messages": [USER, {**ANSWER, "loss_weight": 0.5}]}, "loss_weight 0.5"),
        ({"messages": [USER, {**ANSWER, "loss_weight": 0}]}, "on every assistant turn"),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "image", "url": "x"}]}]}, "type 'image'"),
        ({"conversations": [{"from": "human", "value": 3}]}, "value is int"),
        ({"conversations": [{"from": "function_call", "value": "{"}]}, "not JSON as function_call"),
        ({"messages": [USER, ANSWER], "tools": "nonsense"}, "not JSON as tools"),
    ],
)
def test_unusable_conversations_are_named(tmp_path, entry, words):
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": [USER, ANSWER]}) + "\n\n" + json.dumps(entry) + "\n", encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        list(conversations_in(path, Broken()))
    assert words in str(error.value)
    assert f"{path}, line 3" in str(error.value)
    skipping = Broken(skip=True)
    assert len(list(conversations_in(path, skipping))) == 1
    assert skipping.count == 1


def test_broken_files_are_named(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text('{"messages": [\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="line 1: is not JSON"):
        list(conversations_in(path, Broken()))
    whole = tmp_path / "chats.json"
    whole.write_text('{"messages": []}', encoding="utf-8")
    with pytest.raises(ConfigError, match="not a list of conversations"):
        list(conversations_in(whole, Broken()))
    whole.write_text("[\n{]", encoding="utf-8")
    with pytest.raises(ConfigError, match="line 2: is not JSON"):
        list(conversations_in(whole, Broken()))
    with pytest.raises(ConfigError, match="no file or directory"):
        find_chats([str(tmp_path / "none")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no chats"):
        find_chats([str(tmp_path / "empty")])
    assert find_chats([str(tmp_path)]) == [whole, path]
