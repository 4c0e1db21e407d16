"""`train sft` as a user calls it: run file, flags, results, and mistakes."""

from __future__ import annotations

import json

import pytest
import yaml

from hidden_decoding.cli.main import main
from tests.train.chats import write_chats


@pytest.fixture
def run_file(tiny_checkpoint, tmp_path):
    """A run file of two steps, and the directory its run goes to."""
    sections = {
        "model": {"model": str(tiny_checkpoint(2, "linear"))},
        "data": {"data": str(write_chats(tmp_path / "chats.jsonl", 12)), "tokens_per_sequence": 256},
        "optimiser": {"learning_rate": "1e-3"},
        "schedule": {"steps": 2},
        "run": {"out": str(tmp_path / "run"), "sequences_per_step": 1, "device": "cpu"},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(sections), encoding="utf-8")
    return path


def test_run_file_flags_and_control(run_file, tiny_checkpoint, tmp_path, capsys):
    control = str(tiny_checkpoint(1))
    arguments = ["train", "sft", "-q", "-c", str(run_file), "--steps", "3", "--lora-rank", "2", "--control", control]
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["step"], result["streams"], result["control"]["streams"]) == (3, 2, 1)
    assert [evaluation["step"] for evaluation in result["evaluations"]] == [0, 3]
    expected = result["heldout_loss"] - result["control"]["heldout_loss"]
    assert result["difference_to_control"] == pytest.approx(expected)
    assert result["chats"]["conversations"] == 12
    assert main([*arguments, "--resume"]) == 0  # both are finished: nothing is trained again
    out = capsys.readouterr().out
    assert "n = 2: step 3, " in out
    assert "n = 1: step 3, " in out
    assert "nats per token" in out
    assert "the n = 1 control" in out
    assert f"adapter: {tmp_path / 'run' / 'adapter'}" in out
    assert f"hidden-decoding serve {tmp_path / 'run' / 'model'}" in out


def test_stopping_says_how_to_go_on(run_file, capsys):
    assert main(["train", "sft", "-q", "-c", str(run_file), "--stop-at-step", "1"]) == 0
    assert "--resume" in capsys.readouterr().out
    assert main(["train", "sft", "-c", str(run_file), "--resume"]) == 0
    printed = capsys.readouterr()
    assert "model: " in printed.out
    assert list((run_file.parent / "run").rglob("events.out.tfevents.*")), "TensorBoard shows it by default"
    assert "tokens/s" in printed.err


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("steps: 2", "stepps: 2", "unknown key 'stepps'; did you mean 'steps'?"),
        ("schedule:", "scedule:", "unknown section 'scedule'; did you mean 'schedule'?"),
        ("chats.jsonl", "nothing.jsonl", "no file or directory"),
        ("tokens_per_sequence: 256", "turns: none", "turns is 'none'; it must be one of all, each"),
        ("tokens_per_sequence: 256", "text_key: x", "unknown key 'text_key'"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(run_file, capsys, old, new, words):
    text = run_file.read_text(encoding="utf-8")
    assert old in text
    run_file.write_text(text.replace(old, new), encoding="utf-8")
    assert main(["train", "sft", "-q", "-c", str(run_file)]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err
