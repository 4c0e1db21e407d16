"""The splitter of thinking and answer: examples by hand, and the same result for every way to cut the text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hidden_decoding.serve.reasoning import ReasoningSplitter


def split(pieces: list[str], **options) -> tuple[str, str]:
    splitter = ReasoningSplitter(**options)
    parts = [part for piece in pieces for part in splitter.feed(piece)] + splitter.finish()
    assert all(text for _, text in parts), "an empty part tells a client nothing"
    return tuple("".join(text for kind, text in parts if kind == wanted) for wanted in ("reasoning", "content"))


@pytest.mark.parametrize(
    ("text", "opened", "reasoning", "content"),
    [
        ("<think>\nHm.\n</think>\n\nYes.", False, "Hm.", "Yes."),
        ("\n <think>a  b</think>c ", False, "a  b", "c "),
        ("Hm.\n</think>\n\nYes.", True, "Hm.", "Yes."),
        ("plain <think>not a block</think>", False, "", "plain <think>not a block</think>"),
        (" leading space stays", False, "", " leading space stays"),
        ("<think></think>Yes", False, "", "Yes"),
        ("<think>cut off </thi", False, "cut off </thi", ""),
        ("<think>cut off \n", False, "cut off", ""),
        ("<thin", False, "", "<thin"),
        ("<think>a</think>b<think>c</think>", False, "a", "b<think>c</think>"),
        ("<think>1 < 2 </ 3</think>ok", False, "1 < 2 </ 3", "ok"),
    ],
)
def test_known_texts(text, opened, reasoning, content):
    assert split([text], opened=opened) == (reasoning, content)


def test_switched_off_leaves_the_text_alone():
    assert split(["<think>a</think>b"], enabled=False) == ("", "<think>a</think>b")


FRAGMENTS = st.sampled_from(["<think>", "</think>", "<", "</", "think>", " ", "\n", "a", "b c", "é", "<think", ">"])


@given(st.lists(FRAGMENTS, max_size=12), st.booleans(), st.data())
def test_any_cut_gives_the_same(fragments, opened, data):
    text = "".join(fragments)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = split([text], opened=opened)
    assert split(pieces, opened=opened) == whole
    assert split(list(text), opened=opened) == whole
    # Nothing but tags and white space is ever lost.
    kept = "".join(whole)
    lost = text.replace("<think>", "", 1).replace("</think>", "", 1)
    assert "".join(kept.split()) in ("".join(text.split()), "".join(lost.split())) or "think>" in kept
