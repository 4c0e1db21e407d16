"""Text read while training: which rows come, in which order, and that any number of processes sees the same ones."""

from __future__ import annotations

import json

import pytest
import torch

from hidden_decoding.errors import ConfigError
from hidden_decoding.train.data_settings import DataSettings
from hidden_decoding.train.loop import train_cpt
from hidden_decoding.train.parallelize import World
from hidden_decoding.train.streaming import LaneRows
from tests.support import tiny_tokenizer
from tests.train.support import losses, settings, write_corpus
from tests.train.test_sources import write_parquet

WIDTH = 24


@pytest.fixture(scope="module")
def texts():
    return [f"document {number}: " + "words of it and more " * (number % 5) for number in range(13)]


@pytest.fixture
def lines(texts, tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps({"text": text, "other": 1}) + "\n" for text in texts), encoding="utf-8")
    return path


def world(rank=0, size=1):
    return World(rank, size, rank, torch.device("cpu"))


def rows_of(source, lanes=2, rank=0, size=1, **changes):
    given = {"data": (str(source),), "streaming": True, "heldout_fraction": 0, "lanes": lanes}
    return LaneRows(
        DataSettings(tokens_per_sequence=WIDTH, **{**given, **changes}), tiny_tokenizer(), world(rank, size)
    )


def by_hand(texts, lanes: int, rows: int) -> list[list[int]]:
    """Row r: the next WIDTH tokens of lane r mod lanes, which has every `lanes`-th document, over and over."""
    tokenizer = tiny_tokenizer()
    flat = []
    for lane in range(lanes):
        own = [i for text in texts[lane::lanes] for i in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
        flat.append(own * 50)
    return [flat[r % lanes][r // lanes * WIDTH : (r // lanes + 1) * WIDTH] for r in range(rows)]


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_rows_are_those_of_every_lane_in_turn_over_several_epochs(texts, lines, lanes):
    made = rows_of(lines, lanes).take(90)
    assert [row.ids.tolist() for row in made] == by_hand(texts, lanes, 90)
    for row in made:  # positions restart with a document; a target is the next token of the same one
        starts = [at for at in range(WIDTH) if row.position_ids[at] == 0]
        assert starts[0] == 0
        for at in range(WIDTH - 1):
            last = at + 1 in starts
            assert row.targets[at] == (-100 if last else row.ids[at + 1])


def test_every_kind_of_file_gives_the_same_documents(texts, lines, tmp_path):
    expected = [row.ids.tolist() for row in rows_of(lines).take(20)]
    parquet = write_parquet(tmp_path / "rows.parquet", texts)
    assert [row.ids.tolist() for row in rows_of(parquet).take(20)] == expected
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.jsonl").write_text(lines.read_text())
    assert [row.ids.tolist() for row in rows_of(f"hub:{folder}").take(20)] == expected
    text = tmp_path / "one.txt"
    text.write_text("one document\nof two lines " * 40, encoding="utf-8")
    (row,) = rows_of(text, lanes=1).take(1)
    assert row.position_ids.tolist() == list(range(WIDTH))


@pytest.mark.parametrize("cut", [0, 1, 2, 7, 19, 33, 58])
def test_any_place_resumes_to_the_exact_row(lines, cut):
    straight = [row.ids.tolist() for row in rows_of(lines).take(90)]
    before = rows_of(lines)
    before.take(cut)
    after = rows_of(lines)
    after.restore(json.loads(json.dumps(before.state())))
    assert [row.ids.tolist() for row in after.take(90 - cut)] == straight[cut:]
    skipped = rows_of(lines)
    skipped.skip(cut)
    assert [row.ids.tolist() for row in skipped.take(90 - cut)] == straight[cut:]


def test_processes_share_the_rows_of_one(lines):
    straight = [row.ids.tolist() for row in rows_of(lines, lanes=4).take(24)]
    parts = [rows_of(lines, lanes=4, rank=rank, size=2) for rank in range(2)]
    together = []
    for _ in range(3):
        taken = [part.take(8, rank, 2) for rank, part in enumerate(parts)]
        together += [row.ids.tolist() for pair in zip(*taken, strict=True) for row in pair]
    assert together == straight
    with pytest.raises(ConfigError, match="lanes is 3, which 2 processes cannot share"):
        rows_of(lines, lanes=3, size=2)


def test_weights_hold_in_every_lane(lines, tmp_path):
    other = write_parquet(tmp_path / "other.parquet", ["zzz " * 30] * 8)
    mixed = rows_of(lines, data=(f"{lines}=1", f"{other}=3"))
    only = {row.ids.tobytes() for row in rows_of(other, lanes=2).take(40)}
    assert sum(row.ids.tobytes() in only for row in mixed.take(40)) == 30


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"streaming": False, "data": ("hub:a/b",)}, "streaming is False.*--streaming"),
        ({"heldout_fraction": 0.1}, "heldout.*files of their own"),
    ],
)
def test_settings_that_cannot_work_are_refused(lines, changes, words):
    with pytest.raises(ConfigError, match=words):
        rows_of(lines, **changes)


def test_text_that_cannot_be_read_is_named_or_left_out(lines, tmp_path):
    with pytest.raises(ConfigError, match=r"no column 'body'.*it has text, other"):
        rows_of(lines, text_key="body").take(1)
    hole = write_parquet(tmp_path / "hole.parquet", ["one", None, "three", "four"])
    with pytest.raises(ConfigError, match=r"hole\.parquet, lane 1, document 1.*NoneType.*--on-broken skip"):
        rows_of(hole).take(2)
    kept = rows_of(hole, on_broken="skip")
    kept.take(2)
    assert kept.broken.count >= 1
    with pytest.raises(ConfigError, match=r"no document for lane [1-7]; give fewer --lanes"):
        rows_of(hole, lanes=8, on_broken="skip").take(8)
    with pytest.raises(ConfigError, match="hub:no-such/set cannot be opened"):
        rows_of("hub:no-such/set")


def test_a_streamed_run_resumes_bit_for_bit(tiny_checkpoint, tmp_path):
    text, held = (write_corpus(tmp_path / name, 30_000) for name in ("text.jsonl", "held.jsonl"))
    streamed = {"streaming": True, "heldout": (str(held),), "lanes": 4}
    start = tiny_checkpoint(2)
    straight = train_cpt(settings(start, text, tmp_path / "straight", **streamed), progress=False)
    train_cpt(settings(start, text, tmp_path / "parted", stop_at_step=3, **streamed), progress=False)
    resumed = train_cpt(settings(start, text, tmp_path / "parted", resume=True, **streamed), progress=False)
    assert losses(resumed) == losses(straight)
    train_cpt(settings(start, text, tmp_path / "other", stop_at_step=3, **streamed), progress=False)
    with pytest.raises(ConfigError, match="cannot resume: the checkpoint read its text with"):
        train_cpt(settings(start, text, tmp_path / "other", resume=True, **{**streamed, "lanes": 2}), progress=False)
