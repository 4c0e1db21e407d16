"""Text to rows: every row is checked against packing written out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from hidden_decoding.errors import ConfigError
from hidden_decoding.train import corpus as corpus_module
from hidden_decoding.train.corpus import Corpus, load_corpus
from hidden_decoding.train.data import PackedRows, RowStream, hold_out, make_batch
from tests.support import tiny_tokenizer
from tests.train.support import write_corpus

END = 0


def corpus_of(documents: list[list[int]]) -> Corpus:
    """Documents given as ids without their end token."""
    ids = [[*document, END] for document in documents]
    offsets = np.cumsum([0, *map(len, ids)])
    flat = np.array([token for document in ids for token in document], dtype=np.uint16)
    return Corpus(flat, offsets, np.array([3 * len(document) for document in documents]), "test", END)


def by_hand(documents: list[list[int]], width: int) -> list[list[tuple[int, int, int]]]:
    """(id, position, target) of every token, row by row, one token at a time."""
    flat = [(d, i, [*doc, END]) for d, doc in enumerate(documents) for i in range(len(doc) + 1)]
    rows, position = [], 0
    for index, (_, i, doc) in enumerate(flat):
        if index % width == 0:
            rows.append([])
            position = 0
        if i == 0:
            position = 0
        rows[-1].append((doc[i], position, doc[i + 1] if i + 1 < len(doc) else -100))
        position += 1
    rows[-1] += [(END, 0, -100)] * (width - len(rows[-1]))
    return rows


documents_strategy = st.lists(st.lists(st.integers(1, 60), min_size=0, max_size=12), min_size=1, max_size=8)


@hypothesis_settings(max_examples=150, deadline=None)
@given(documents=documents_strategy, width=st.integers(2, 9))
def test_rows_equal_packing_by_hand(documents, width):
    packed = PackedRows(corpus_of(documents), np.arange(len(documents)), width)
    expected = by_hand(documents, width)
    assert len(packed) == len(expected)
    for number, row in enumerate(expected):
        ids, positions, targets, real = packed.row(number)
        assert list(zip(ids, positions, targets, strict=True)) == row
        assert real == min(width, packed.tokens - number * width)


@hypothesis_settings(max_examples=60, deadline=None)
@given(documents=documents_strategy, width=st.integers(2, 9), cut=st.integers(0, 30), seed=st.integers(0, 5))
def test_resumed_order_equals_uninterrupted(documents, width, cut, seed):
    corpus, every = corpus_of(documents), np.arange(len(documents))

    def rows(stream: RowStream, count: int) -> list[list[int]]:
        return [row.ids.tolist() for row in stream.take(count)]

    straight = rows(RowStream(corpus, every, width, seed), cut + 12)
    first = RowStream(corpus, every, width, seed)
    before = rows(first, cut)
    state = json.loads(json.dumps(first.state()))
    again = RowStream(corpus, every, width, seed)
    again.restore(state)
    assert before + rows(again, 12) == straight


def test_order_changes_with_seed_and_epoch_and_covers_all_documents():
    documents = [[10 + d] * 3 for d in range(20)]
    corpus, every = corpus_of(documents), np.arange(20)
    orders = {}
    for seed in (0, 1):
        stream = RowStream(corpus, every, 4, seed)
        for epoch in (0, 1):
            batch = make_batch(stream.take(stream.rows_per_epoch))
            orders[seed, epoch] = tuple(batch.ids_BT[:, 0].tolist())
            assert sorted(orders[seed, epoch]) == list(range(10, 30))
    assert len(set(orders.values())) == 4


def test_restoring_another_corpus_is_refused():
    stream = RowStream(corpus_of([[1, 2, 3]] * 4), np.arange(4), 4, 0)
    with pytest.raises(ConfigError, match="tokens_per_sequence = 4, this run has 5"):
        RowStream(corpus_of([[1, 2, 3]] * 4), np.arange(4), 5, 0).restore(stream.state())


def test_held_out_documents_are_whole_disjoint_and_fixed():
    corpus = corpus_of([[1] * (5 + d) for d in range(40)])
    train, held = hold_out(corpus, 0.2, seed=3)
    assert set(train) | set(held) == set(range(40))
    assert not set(train) & set(held)
    assert corpus.lengths()[held].sum() >= 0.2 * corpus.tokens
    assert hold_out(corpus, 0.2, seed=3)[1].tolist() == held.tolist()
    assert hold_out(corpus, 0.2, seed=4)[1].tolist() != held.tolist()
    assert not len(hold_out(corpus, 0.0, seed=3)[1])
    with pytest.raises(ConfigError, match="1 document"):
        hold_out(corpus_of([[1, 2, 3]]), 0.1, seed=0)


def test_text_becomes_its_tokens_and_end_tokens(tmp_path):
    tokenizer = tiny_tokenizer()
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "b.txt").write_text("héllo wörld\n", encoding="utf-8")
    (tmp_path / "folder" / "deep" / "c.md").write_text("# a title\n", encoding="utf-8")
    (tmp_path / "folder" / "ignored.bin").write_bytes(b"\x00\x01")
    (tmp_path / "folder" / "empty.txt").write_text("  \n", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text('{"body": "one"}\n\n{"body": "two"}\n', encoding="utf-8")
    corpus = load_corpus(
        [str(tmp_path / "a.jsonl"), str(tmp_path / "folder")], tokenizer, tmp_path / "cache", text_key="body"
    )
    texts = ["one", "two", "héllo wörld\n", "# a title\n"]
    for number, text in enumerate(texts):
        ids = corpus.ids[corpus.offsets[number] : corpus.offsets[number + 1]].tolist()
        assert ids == [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    assert corpus.text_bytes.tolist() == [len(text.encode()) for text in texts]


def test_cache_is_used_again_and_only_for_the_same_text(tmp_path, monkeypatch):
    tokenizer, data = tiny_tokenizer(), write_corpus(tmp_path / "text.jsonl", 30_000)
    first = load_corpus([str(data)], tokenizer, tmp_path / "cache")
    with monkeypatch.context() as patched:
        patched.setattr(corpus_module, "_encode", lambda *_: pytest.fail("tokenised again"))
        renamed = data.rename(tmp_path / "renamed.jsonl")
        second = load_corpus([str(renamed)], tokenizer, tmp_path / "cache")
    assert np.array_equal(first.ids, second.ids)
    renamed.write_text(renamed.read_text(encoding="utf-8") + '{"text": "more"}\n', encoding="utf-8")
    third = load_corpus([str(renamed)], tokenizer, tmp_path / "cache")
    assert third.documents == first.documents + 1
    assert load_corpus([str(renamed)], tiny_tokenizer(400), tmp_path / "cache").key != third.key


def test_long_documents_are_tokenised_in_pieces_without_changing_them(tmp_path, monkeypatch):
    tokenizer = tiny_tokenizer()
    text = "".join(f"line {number} of a longer text\n" for number in range(300))
    (tmp_path / "long.txt").write_text(text, encoding="utf-8")
    monkeypatch.setattr(corpus_module, "PIECE_CHARACTERS", 500)
    corpus = load_corpus([str(tmp_path / "long.txt")], tokenizer, tmp_path / "cache")
    assert corpus.documents == 1
    assert tokenizer.decode(corpus.ids[:-1].tolist()) == text
    assert int((corpus.ids == tokenizer.eos_token_id).sum()) == 1
    assert corpus.text_bytes.tolist() == [len(text)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"body": "x"}', "line 2: has no key 'text'"),
        ("not json", "line 2: is not a JSON object"),
        ("[1]", "line 2: is not a JSON object"),
        ('{"text": 5}', "line 2: 'text' is int, not text"),
    ],
)
def test_broken_lines_are_named(tmp_path, line, words):
    (tmp_path / "x.jsonl").write_text('{"text": "fine"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        load_corpus([str(tmp_path / "x.jsonl")], tiny_tokenizer(), tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())  # nothing half-written stays


def test_nothing_to_read_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.txt").write_text("\n", encoding="utf-8")
    for path, words in (("empty", "holds no text"), ("blank.txt", "every document is empty"), ("none", "no file")):
        with pytest.raises(ConfigError, match=words):
            load_corpus([str(tmp_path / path)], tiny_tokenizer(), tmp_path / "cache")


def test_batch_counts_real_and_predicted_tokens():
    packed = PackedRows(corpus_of([[5, 6, 7], [8]]), np.arange(2), 4)
    batch = make_batch([packed.row(0), packed.row(1)])
    assert batch.tokens == 6
    assert batch.predicted == 4
    assert batch.targets_BT.tolist() == [[6, 7, 0, -100], [0, -100, -100, -100]]
    assert batch.position_ids_BT.dtype == torch.int64
