"""Data sets: what is published, what is a subset, what was changed, what is missing."""

from __future__ import annotations

import shutil

import pytest

from hidden_decoding.errors import ConfigError
from hidden_decoding.evaluate.data_files import _split_options
from hidden_decoding.evaluate.data_sets import DataSource, data_sets
from hidden_decoding.evaluate.pack import load_pack
from hidden_decoding.evaluate.results import reasons_against
from hidden_decoding.evaluate.run import prepare
from hidden_decoding.evaluate.settings import EvalConfig
from tests.evaluate.fixtures import subsets_of


def test_real_sets_are_known_by_content(real_data):
    source = DataSource(real_data)
    for name in ("gsm8k", "arc_challenge", "math500", "aime24", "aime25"):
        label = source.label(name, [data_sets()[name].config])
        assert label.published, label
        assert label.hash_known
    for name in ("bbh", "mmlu", "cmmlu", "math"):
        label = source.label(name, list(subsets_of(name)))
        assert label.published, label
        assert label.hash_known
    for name, version in (
        ("hellaswag", "sample"),
        ("mmlu_pro", "sample"),
        ("supergpqa", "sample"),
        ("mbpp_plus", "an earlier"),
    ):
        label = source.label(name, [data_sets()[name].config])
        assert not label.published
        assert label.version.startswith(version)


def test_a_changed_set_is_told(real_data, tmp_path):
    for name in ("gsm8k_train.jsonl", "gsm8k_test.jsonl"):
        shutil.copy(real_data / name, tmp_path / name)
    path = tmp_path / "gsm8k_test.jsonl"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("#### 18", "#### 19", 1), encoding="utf-8")
    label = DataSource(tmp_path).label("gsm8k", ["main"])
    assert not label.published
    assert "content differs" in label.version
    path.write_text(text[: text.index("\n") + 1], encoding="utf-8")
    assert DataSource(tmp_path).label("gsm8k", ["main"]).version == "not the published set: 1 questions of 1,319"


def test_a_missing_set_is_named_with_what_to_do(tmp_path):
    (tmp_path / "x").mkdir()
    for suite, file, hub in (
        ("gpqa_diamond", "gpqa_diamond.csv", "Idavidrein/gpqa"),
        ("ceval", "ceval/val", "ceval/ceval-exam"),
    ):
        with pytest.raises(ConfigError) as caught:
            prepare(load_pack("instruct"), EvalConfig(data=tmp_path, suite=(suite,)), progress=False)
        assert all(text in str(caught.value) for text in (file, hub, "--data", "docs/evaluation.md"))
        assert "\n" not in str(caught.value)


def test_suites_that_were_not_named_are_left_out_by_name(data):
    whole = load_pack("base")
    pack = type(whole)(**{**vars(whole), "suites": [s for s in whole.suites if s.name in {"mbpp_plus", "gsm8k"}]})
    prepared = {s.suite.name: s for s in prepare(pack, EvalConfig(data=data, limit=1), progress=False)}
    assert "--allow-code-execution" in prepared["mbpp_plus"].reason
    assert prepared["gsm8k"].items
    with pytest.raises(ConfigError, match="--allow-code-execution"):
        prepare(pack, EvalConfig(data=data, suite=("mbpp_plus",)), progress=False)


@pytest.mark.parametrize("content", ["{}\n", "not json\n", '{"question": 1}\n'])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "arc_challenge").mkdir()
    for part in ("Train", "Dev", "Test"):
        (tmp_path / "arc_challenge" / f"ARC-Challenge-{part}.jsonl").write_text(content)
    with pytest.raises(ConfigError, match="ARC-Challenge-"):
        DataSource(tmp_path).splits("arc_challenge", "ARC-Challenge")


def test_options_are_cut_from_a_question():
    text = "A. Smith asks:\nwhich?\n Options are:\nA. one\nB. two\nlines\nC. three"
    assert _split_options(text) == ("A. Smith asks:\nwhich?", ["one", "two\nlines", "three"])
    with pytest.raises(ValueError, match="no options"):
        _split_options("none here")


def test_when_published_figures_stand_beside_ours(real_data):
    suite = next(suite for suite in load_pack("instruct").suites if suite.name == "aime24")
    label = DataSource(real_data).label("aime24", [None])
    as_published = EvalConfig()
    assert reasons_against(suite, as_published, label, failed=False) == []
    for changed in ({"limit": 20}, {"samples": 2}, {"max_answer_tokens": 8}, {"thinking": True}):
        assert len(reasons_against(suite, EvalConfig(**changed), label, failed=False)) == 1
    assert reasons_against(suite, EvalConfig(samples=64), label, failed=False) == []
    assert reasons_against(suite, as_published, label, failed=True)
