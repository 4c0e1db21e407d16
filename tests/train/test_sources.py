"""Parquet, broken shards and weighted mixtures: what is read, what is named, and in which order rows come."""

from __future__ import annotations

import json

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from hidden_decoding.errors import ConfigError
from hidden_decoding.train.config import DataSettings
from hidden_decoding.train.corpus import load_corpus
from hidden_decoding.train.data import MixedRows, RowStream, make_batch
from hidden_decoding.train.loop import train_cpt
from tests.support import tiny_tokenizer
from tests.train.support import losses, settings, write_corpus
from tests.train.test_data import corpus_of


def write_parquet(path, values, column="text"):
    parquet.write_table(pyarrow.table({column: values}), path, row_group_size=4)
    return path


def test_parquet_gives_what_jsonl_gives(tmp_path):
    texts = [f"document {number} of a shard" for number in range(11)]
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    rows = write_parquet(tmp_path / "a.parquet", texts)
    first, second = (load_corpus([str(path)], tiny_tokenizer(), tmp_path / "cache") for path in (lines, rows))
    assert first.ids.tolist() == second.ids.tolist()
    assert first.offsets.tolist() == second.offsets.tolist()
    assert first.key != second.key


def test_broken_parquet_is_named_or_left_out(tmp_path):
    hole = write_parquet(tmp_path / "hole.parquet", ["one", "two", None, "four"])
    whole = write_parquet(tmp_path / "whole.parquet", [f"{number} words" for number in range(40)])
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole.read_bytes()[:-50])
    cache, tokenizer = tmp_path / "cache", tiny_tokenizer()
    with pytest.raises(ConfigError, match=r"hole\.parquet, row 3: 'text' is NoneType"):
        load_corpus([str(hole)], tokenizer, cache)
    with pytest.raises(ConfigError, match=r"cut\.parquet, row 1 and all after it: .*cut off"):
        load_corpus([str(cut)], tokenizer, cache)
    with pytest.raises(ConfigError, match=r"no column 'body'.*it has text"):
        load_corpus([str(whole)], tokenizer, cache, text_key="body", skip_broken=True)
    kept = load_corpus([str(hole), str(cut), str(whole)], tokenizer, cache, skip_broken=True)
    assert kept.file_documents == (3, 0, 40)
    assert kept.broken == 2


def test_broken_lines_are_left_out_when_asked(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text('{"text": "one"}\nnot json\n{"body": "x"}\n{"text": 5}\n{"text": "two"}\n', encoding="utf-8")
    corpus = load_corpus([str(file)], tiny_tokenizer(), tmp_path / "cache", skip_broken=True)
    assert (corpus.documents, corpus.broken) == (2, 3)
    with pytest.raises(ConfigError, match=r"line 2: is not a JSON object.*--on-broken skip"):
        load_corpus([str(file)], tiny_tokenizer(), tmp_path / "cache")


@pytest.mark.parametrize(
    ("data", "sources"),
    [
        (("a", "b"), (("a", None), ("b", None))),
        (("a=3", "b=1"), (("a", 0.75), ("b", 0.25))),
        (({"path": "a", "weight": 1}, {"path": "b", "weight": 1}), (("a", 0.5), ("b", 0.5))),
        (("year=first.txt",), (("year=first.txt", None),)),
    ],
)
def test_weights_are_read_from_flags_and_run_files(data, sources):
    assert DataSettings(data=data).sources() == sources


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (("a=1", "b"), "b has no weight"),
        (("a=0",), "above 0"),
        (("a=nan",), "above 0"),
        (({"path": "a", "wieght": 1},), "did you mean 'weight'"),
        (({"weight": 1},), "no path"),
    ],
)
def test_impossible_mixtures_are_refused(data, words):
    with pytest.raises(ConfigError, match=words):
        DataSettings(data=data)


def mixture():
    """Two sources told apart by their ids: below 30, and from 30."""
    corpus = corpus_of([[10 + d] * 5 for d in range(8)] + [[30 + d] * 5 for d in range(8)])
    parts = [np.arange(8), np.arange(8, 16)]
    return MixedRows([RowStream(corpus, part, 6, 0) for part in parts], [0.7, 0.3])


def test_mixtures_keep_their_shares_and_resume_to_the_exact_row():
    def rows(mixed, count):
        return make_batch(mixed.take(count)).ids_BT.tolist() if count else []

    straight = rows(mixture(), 60)
    first = sum(max(row) < 30 for row in straight)
    assert first == 42
    for end in range(1, 61):  # the shares hold in every stretch from the start
        assert abs(sum(max(row) < 30 for row in straight[:end]) - 0.7 * end) <= 1
    for cut in (0, 1, 7, 29):
        before = mixture()
        head = rows(before, cut)
        after = mixture()
        after.restore(json.loads(json.dumps(before.state())))
        assert head + rows(after, 60 - cut) == straight
    with pytest.raises(ConfigError, match="shares"):
        mixture().restore({**mixture().state(), "shares": [0.5, 0.5]})


def test_a_run_on_a_mixture_resumes_bit_for_bit(tiny_checkpoint, tmp_path):
    text = write_corpus(tmp_path / "text.jsonl", 40_000)
    other = write_parquet(tmp_path / "other.parquet", [f"{number} bottles of beer on the wall" for number in range(90)])
    mixed = {"data": (f"{text}=1", f"{other}=3"), "heldout_fraction": 0.1}
    start = tiny_checkpoint(2)
    straight = train_cpt(settings(start, text, tmp_path / "straight", **mixed), progress=False)
    train_cpt(settings(start, text, tmp_path / "parted", stop_at_step=2, **mixed), progress=False)
    resumed = train_cpt(settings(start, text, tmp_path / "parted", resume=True, **mixed), progress=False)
    assert losses(resumed) == losses(straight)
    alone = train_cpt(settings(start, text, tmp_path / "alone"), progress=False)
    assert losses(alone) != losses(straight)
