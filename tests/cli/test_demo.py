"""The demonstration: the quick one end to end, and what it says about figures that could have come out otherwise."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request

import pytest

from hidden_decoding.cli import demo as cli_demo
from hidden_decoding.cli.main import main
from hidden_decoding.demo.report import table, verdict
from hidden_decoding.demo.serving import served
from hidden_decoding.demo.settings import DEFAULT, FULL, QUICK
from hidden_decoding.demo.text import prompt_from, write_texts
from hidden_decoding.errors import CapacityError, ConfigError
from hidden_decoding.modeling.checkpoint import load_config
from hidden_decoding.train.metrics import read_metrics


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """`demo --quick --json` in a process of its own: its directory, result and screen."""
    out = tmp_path_factory.mktemp("demo") / "out"
    command = [sys.executable, "-m", "hidden_decoding.cli.main", "demo", "--quick", "--json", "--out", str(out)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=500, env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out, json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_quick_demo_compares_on_the_same_tokens(quick):
    out, result, _ = quick
    runs = {run["streams"]: run for run in result["runs"]}
    assert list(runs) == [1, 2, 4]
    for n, run in runs.items():
        assert load_config(out / f"n{n}" / "model").num_streams == n
        assert run["tokens"] == runs[1]["tokens"]
        assert run["positions"] == n * run["tokens"]
        assert run["heldout_tokens"] == runs[1]["heldout_tokens"]
        assert run["tokens"] <= run["tokens_available"]
        assert run["final_loss"] == pytest.approx(run["difference_to_n1"] + runs[1]["final_loss"])
    planned = QUICK.continued_steps * QUICK.tokens_per_step
    assert planned - QUICK.tokens_per_sequence < runs[1]["tokens"] <= planned  # a row may be part padding
    assert result["base"]["final_loss"] < result["base"]["start_loss"] - 1
    assert runs[1]["start_loss"] == pytest.approx(result["base"]["final_loss"], abs=1e-5)
    identities = {
        json.dumps({key: value for key, value in _start(out / f"n{n}").items() if "tokens" in key}) for n in runs
    }
    assert len(identities) == 1


def _start(directory) -> dict:
    return read_metrics(directory / "metrics.jsonl")[0]


@pytest.mark.slow
def test_quick_demo_shows_what_it_found(quick):
    out, result, screen = quick
    assert table(result) in screen
    for words in ("positions", "small or absent", "experiments/", "tokens per second", "Done in"):
        assert words in screen
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    completion = result["completion"]
    assert 1 <= completion["tokens"] <= QUICK.completion_tokens
    assert completion["text"] in screen
    assert completion["prompt"] in screen
    assert result["total_seconds"] > 0
    assert json.loads((out / "demo.json").read_text(encoding="utf-8"))["runs"] == result["runs"]


@pytest.mark.slow
def test_server_stops_with_the_block_and_answers_inside_it(quick, tmp_path):
    model = quick[1]["model"]
    with served(model, tmp_path / "server.log") as url:
        with urllib.request.urlopen(url + "/v1/models", timeout=5) as answer:
            assert json.load(answer)["data"][0]["id"] == "demo"
        port = int(url.rsplit(":", 1)[1])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_server_that_cannot_start_is_reported_with_its_last_words(tmp_path):
    with (
        pytest.raises(CapacityError, match=r"ended with exit code 2.*nowhere"),
        served(tmp_path / "nowhere", tmp_path / "server.log"),
    ):
        pass


def test_verdict_follows_the_figures():
    def run(n: int, loss: float, seconds: float) -> dict:
        return {"streams": n, "final_loss": loss, "difference_to_n1": loss - 4.0, "seconds": seconds}

    better = verdict([run(1, 4.0, 10), run(2, 3.99, 20), run(4, 3.95, 45)])
    assert "n = 4 ended lowest, 0.0500 nats per token below n = 1, for 4.5 times" in better
    worse = verdict([run(1, 4.0, 10), run(2, 4.01, 20), run(4, 4.2, 45)])
    assert "no model with more streams ended below n = 1" in worse


@pytest.mark.parametrize("settings", [QUICK, DEFAULT])
def test_texts_are_apart_and_enough(settings, tmp_path):
    text = write_texts(settings, [], "text", tmp_path)
    parts = {
        name: [
            json.loads(line)["text"] for line in (tmp_path / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for name in ("base", "fresh", "heldout")
    }
    beginnings = {name: {document[:500] for document in documents} for name, documents in parts.items()}
    assert not beginnings["heldout"] & (beginnings["base"] | beginnings["fresh"])
    assert parts["base"] == text.base_texts
    sizes = {name: sum(map(len, documents)) for name, documents in parts.items()}
    # A token of these small vocabularies is about two to three characters: no text is read twice.
    assert sizes["base"] > 3.2 * settings.base_steps * settings.tokens_per_step
    assert sizes["fresh"] > 3.2 * settings.continued_steps * settings.tokens_per_step
    prompt = prompt_from(text.heldout_texts)
    assert 1 < len(prompt) <= 60
    assert any(document.lstrip().startswith(prompt) for document in parts["heldout"])


def test_own_text_is_split_the_same_way_and_too_little_is_refused(tmp_path):
    lines = [json.dumps({"body": f"document {number} " * 20}) for number in range(30)]
    (tmp_path / "own.jsonl").write_text("\n".join(lines), encoding="utf-8")
    text = write_texts(QUICK, [str(tmp_path / "own.jsonl")], "body", tmp_path / "split")
    written = [(tmp_path / "split" / f"{name}.jsonl").read_text().splitlines() for name in ("base", "fresh", "heldout")]
    assert sum(map(len, written)) == 30
    assert len(text.heldout_texts) == 2
    (tmp_path / "few.jsonl").write_text("\n".join(lines[:5]), encoding="utf-8")
    with pytest.raises(ConfigError, match="5 documents"):
        write_texts(QUICK, [str(tmp_path / "few.jsonl")], "body", tmp_path / "split2")


def test_other_people_s_directories_are_left_alone(tmp_path, capsys):
    (tmp_path / "precious.txt").write_text("mine", encoding="utf-8")
    assert main(["demo", "--quick", "--out", str(tmp_path)]) == 2
    assert "not from an earlier demonstration" in capsys.readouterr().err
    assert (tmp_path / "precious.txt").read_text(encoding="utf-8") == "mine"


def test_an_earlier_demonstration_is_replaced(tmp_path):
    out = cli_demo.fresh_directory(tmp_path / "demo-out")
    (out / "old").mkdir()
    assert not (cli_demo.fresh_directory(out) / "old").exists()


def test_missing_packages_are_named_before_anything_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli_demo, "NEEDED", ("json", "no_such_package"))
    assert main(["demo", "--out", str(tmp_path / "out")]) == 2
    assert "needs no_such_package" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_sizes_are_what_the_help_says():
    assert (FULL.layers, FULL.width, FULL.heads, FULL.feed_forward, FULL.vocabulary) == (6, 160, 5, 480, 2048)
    assert (FULL.tokens_per_sequence, FULL.sequences_per_step) == (64, 24)
    assert (FULL.base_steps, FULL.continued_steps, FULL.learning_rate, FULL.noise) == (800, 800, 1.5e-3, 0.1)
    assert {settings.positions for settings in (QUICK, DEFAULT, FULL)} == {"linear"}
