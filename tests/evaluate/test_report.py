"""Figures: intervals against simulation and by hand; several models in one table; merged runs."""

from __future__ import annotations

import json
import random

import pytest

from hidden_decoding.errors import ConfigError
from hidden_decoding.evaluate.report import find_results, make_reports
from hidden_decoding.evaluate.report_pages import html_page, markdown, screen
from hidden_decoding.evaluate.statistics import difference, estimate, spread, wilson


def test_wilson_covers_what_it_says():
    """Newcombe (1998) gives 81 of 263 as 0.2553 to 0.3662; and 95% of simulated intervals hold the truth."""
    found = wilson(81, 263)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert (wilson(0, 20).low, wilson(20, 20).high) == (0.0, 1.0)
    rng = random.Random(0)
    for truth in (0.05, 0.5, 0.9):
        held = sum(
            (one := wilson(sum(rng.random() < truth for _ in range(60)), 60)).low <= truth <= one.high
            for _ in range(800)
        )
        assert 0.92 <= held / 800 <= 0.985


def test_repeated_samples_count_questions():
    """16 equal samples of 30 questions say no more than one: the interval is that of 30 means."""
    scores = [[float(number < 12)] * 16 for number in range(30)]
    found = estimate(scores)
    assert found.mean == pytest.approx(0.4)
    assert found.high - found.low == pytest.approx(2 * 1.96 * (0.24 * 30 / 29 / 30) ** 0.5, rel=1e-3)
    assert spread(scores)["deviation"] == pytest.approx(0, abs=1e-9)
    varied = spread([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert (varied["min"], varied["max"]) == pytest.approx((1 / 3, 2 / 3))
    assert spread([[1.0], [0.0]]) is None


def test_differences_are_paired():
    first, second = {str(n): float(n % 2) for n in range(100)}, {str(n): float(n % 2 or n == 0) for n in range(100)}
    found = difference(first, second)
    assert found.mean == pytest.approx(0.01)
    assert found.high - found.low < 0.05  # unpaired it would be 0.28
    assert difference({}, second) is None


def result(name="m", role="model", mean=60.0, table="base", streams=2, **suite):
    row = {
        "name": "gsm8k", "title": "GSM8K", "about": "4-shot", "notes": [], "shots": 4, "scorer": "number",
        "status": "done",
        "data": {"published": True, "hash_known": True, "version": "published", "questions": 1319, "source": "f",
                 "sha256": "0" * 64},
        "score": {"mean": mean, "low": mean - 2, "high": mean + 2, "questions": 10}, "samples": 1, "spread": None,
        "failed": 0,
        "first_failure": None, "cut_short": 0, "shortened_prompts": 0, "harness": {}, "judged": None, "tasks": {},
        "published": {"B": 92.5, "n2": 93.3}, "no_published_because": None,
        "cost": {"requests": 10, "prompt_tokens": 100, "cached_tokens": 40, "answer_tokens": 7,
                 "computed_positions": 134, "seconds": 1.5},
        "scores": {str(n): float(n < mean / 10) for n in range(10)}, **suite,
    }  # fmt: skip
    return {
        "schema": 1, "table": table, "pack": {"version": 1, "sha256": "a" * 64}, "model": name, "role": role,
        "streams": streams,
        "fingerprint": name, "engine": {"engine": "local"}, "settings": {"thinking": False, "seed": 0}, "sampling": {},
        "harness": "0.4.13", "judge": None, "columns": ["B", "n2"], "suites": [row],
    }  # fmt: skip


def write(directory, *results):
    for number, one in enumerate(results):
        (directory / f"m{number}").mkdir(parents=True)
        (directory / f"m{number}" / "results.json").write_text(json.dumps(one))
    return directory


def test_models_side_by_side_with_a_control(tmp_path):
    runs = write(tmp_path / "a", result("one", "control", 50.0, streams=1), result("n4"), result("n8", "compare", 80.0))
    [report] = make_reports(find_results([runs]))
    assert report.names == ["n4", "n8", "one (n = 1 control)"]
    text = screen(report)
    assert "92.5" in text
    assert "+20.00" in text
    assert "-10.00" in text
    assert "134" in markdown([report])
    assert "<script" not in html_page([report])
    assert "scores" not in json.dumps(report.as_json()["suites"])


def test_merged_runs_must_have_asked_the_same(tmp_path):
    first, second = (
        write(tmp_path / "a", result("a")),
        write(tmp_path / "b", result("b"), result("c", table="instruct")),
    )
    reports = make_reports(find_results([first, second]))
    assert [(report.table, report.names) for report in reports] == [("base", ["a", "b"]), ("instruct", ["c"])]
    other = {**result("d"), "pack": {"version": 2, "sha256": "b" * 64}}
    with pytest.raises(ConfigError, match="asked different questions"):
        make_reports(find_results([first, write(tmp_path / "c", other)]))


def test_a_subset_has_no_published_column(tmp_path):
    runs = write(tmp_path, result(published=None, no_published_because="sample: 300 of 12,032"))
    [report] = make_reports(find_results([runs]))
    assert "92.5" not in screen(report)
    assert "no published figures beside it: sample: 300 of 12,032" in screen(report)


def test_pages_escape_what_models_say(tmp_path):
    evil = result("<b>x</b>|y", failed=1, first_failure="<img src=x>")
    [report] = make_reports(find_results([write(tmp_path, evil)]))
    assert "<img" not in html_page([report])
    assert "<b>x" not in html_page([report]).replace("<br>", "")


@pytest.mark.parametrize(("content", "message"), [(None, "holds no results.json"), ("{}", "is not a result")])
def test_what_is_no_run_is_told(tmp_path, content, message):
    if content:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        find_results([tmp_path])
    with pytest.raises(ConfigError, match="is not a directory"):
        find_results([tmp_path / "nowhere"])
