"""Text handed out piece by piece equals the whole, holds back half characters, and stops where it should."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from hidden_decoding.engines.local.detokenizer import Detokenizer
from tests.support import tiny_tokenizer

TEXTS = st.text(alphabet="abc 中文é😀\n<|", min_size=1, max_size=40)


@given(st.lists(st.integers(0, 511), max_size=40))
@settings(max_examples=150, deadline=None)
def test_any_ids_decode_to_the_same_text(ids):
    tokenizer = tiny_tokenizer()
    pieces = Detokenizer(tokenizer, [])
    text = "".join(pieces.add([token]) for token in ids) + pieces.add([], final=True)
    assert text == tokenizer.decode(ids, skip_special_tokens=True)


@given(TEXTS)
@settings(max_examples=150, deadline=None)
def test_no_half_character_before_the_end(text):
    tokenizer = tiny_tokenizer()
    pieces = Detokenizer(tokenizer, tokenizer.encode("prompt é"))
    shown = ""
    for token in tokenizer.encode(text):
        shown += pieces.add([token])
        assert text.startswith(shown), "only whole characters of the true text may appear"
    assert shown + pieces.add([], final=True) == text


@given(TEXTS, st.lists(st.text(alphabet="abc 中😀", min_size=1, max_size=4), min_size=1, max_size=3))
@settings(max_examples=200, deadline=None)
def test_stop_strings_cut_like_a_search_in_the_whole(text, stops):
    tokenizer = tiny_tokenizer()
    pieces = Detokenizer(tokenizer, [], stop=tuple(stops))
    shown = ""
    for token in tokenizer.encode(text):
        shown += pieces.add([token])
        if pieces.stopped_by is not None:
            break
    else:
        shown += pieces.add([], final=True)
    found = [text.index(stop) for stop in stops if stop in text]
    if found:
        assert pieces.stopped_by is not None
        assert shown == text[: text.index(pieces.stopped_by)]
        assert pieces.stopped_by not in shown
    else:
        assert (shown, pieces.stopped_by) == (text, None)
