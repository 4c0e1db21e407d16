"""`train cpt` as a user calls it: run file, flags, results, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from hidden_decoding.cli.main import main
from hidden_decoding.modeling.checkpoint import load_config
from tests.train.support import write_corpus

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def run_file(tiny_checkpoint, tmp_path):
    """A run file of three steps, and the directory its run goes to."""
    text = write_corpus(tmp_path / "text.jsonl", 30_000)
    sections = {
        "model": {"model": str(tiny_checkpoint(2, "linear"))},
        "data": {"data": str(text), "tokens_per_sequence": 32, "heldout_fraction": 0.1},
        "optimiser": {"learning_rate": "1e-3"},
        "schedule": {"steps": 3},
        "run": {"out": str(tmp_path / "run"), "sequences_per_step": 2, "evaluate_tokens": 200, "device": "cpu"},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(sections), encoding="utf-8")
    return path


def edit(path: Path, old: str, new: str) -> Path:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


def test_run_file_trains_and_flags_win(run_file, tmp_path, capsys):
    assert main(["train", "cpt", "-q", "-c", str(run_file), "--steps", "4", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["step"] == 4
    assert result["tokens"] == 4 * 2 * 32
    assert result["positions"] == 2 * result["tokens"]
    assert [evaluation["step"] for evaluation in result["evaluations"]] == [0, 4]
    assert load_config(result["model"]).num_streams == 2
    used = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert used["schedule"]["steps"] == 4
    assert used["optimiser"]["learning_rate"] == 1e-3


def test_result_for_people_and_resume_hint(run_file, tmp_path, capsys):
    assert main(["train", "cpt", "-q", "-c", str(run_file), "--stop-at-step", "2"]) == 0
    out = capsys.readouterr().out
    assert "n = 2: step 2, 128 tokens = 256 positions" in out
    assert "--resume" in out
    assert main(["train", "cpt", "-c", str(run_file), "--resume"]) == 0
    printed = capsys.readouterr()
    assert f"model: {tmp_path / 'run' / 'model'}" in printed.out
    assert "nats per token" in printed.out
    assert "tokens/s" in printed.err  # the progress bar


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("steps: 3", "stepps: 3", "unknown key 'stepps'; did you mean 'steps'?"),
        ("schedule:", "scedule:", "unknown section 'scedule'; did you mean 'schedule'?"),
        ("steps: 3", "steps: three", "steps is 'three'; it must be of kind int"),
        ("tokens_per_sequence: 32", "tokens_per_sequence: 4096", "8192 positions"),
        ("text.jsonl", "nothing.jsonl", "no file or directory"),
        ("schedule:", "schedule: [", "cannot be read"),
    ],
)
def test_mistakes_in_the_run_file_are_one_line_and_exit_2(run_file, capsys, old, new, words):
    assert main(["train", "cpt", "-q", "-c", str(edit(run_file, old, new))]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err


def test_missing_model_data_and_file_say_which_flag(capsys, tmp_path):
    for arguments, words in (
        ([], "--model"),
        (["--model", "m"], "--data"),
        (["--model", "m", "--data", "d"], "--out"),
        (["-c", str(tmp_path / "none.yaml")], "no run file"),
    ):
        assert main(["train", "cpt", *arguments]) == 2
        assert words in capsys.readouterr().err


def test_every_recipe_is_valid():
    from hidden_decoding.cli.run_file import read_run_file
    from hidden_decoding.train.config import SECTIONS, CptConfig

    recipes = sorted(RECIPES.glob("cpt-*.yaml"))
    assert recipes
    for recipe in recipes:
        sections = read_run_file(recipe, [*SECTIONS, "stages"])
        for stage in sections.pop("stages", None) or [{}]:
            given = {key: value for part in (*sections.values(), *stage.values()) for key, value in part.items()}
            CptConfig.build(**{"model": "m", "data": ("d",), "out": "o", **given})


def test_stages_of_a_run_file_double_the_streams(run_file, tiny_checkpoint, tmp_path, capsys):
    sections = yaml.safe_load(run_file.read_text(encoding="utf-8"))
    sections["model"]["model"] = str(tiny_checkpoint(1))
    sections["stages"] = [{"model": {"streams": 2}}, {"model": {"streams": 4}, "schedule": {"steps": 2}}]
    run_file.write_text(yaml.safe_dump(sections), encoding="utf-8")
    assert main(["train", "cpt", "-q", "-c", str(run_file), "--json", "--learning-rate", "2e-3"]) == 0
    first, second = json.loads(capsys.readouterr().out)["stages"]
    assert [(stage["streams"], stage["step"]) for stage in (first, second)] == [(2, 3), (4, 2)]
    assert load_config(tmp_path / "run" / "model").num_streams == 4
    used = json.loads((tmp_path / "run" / "stage-2" / "run.json").read_text(encoding="utf-8"))
    assert used["optimiser"]["learning_rate"] == 2e-3
    assert used["data"]["skip_sequences"] == 6


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([{"modle": {"streams": 2}}], "stage 1: unknown section 'modle'; did you mean 'model'"),
        ([{"model": {"stream": 2}}], "unknown key 'stream'; did you mean 'streams'"),
        ({"model": {"streams": 2}}, "it must be a list of sections to change"),
    ],
)
def test_impossible_stages_are_one_clear_line(run_file, capsys, stages, words):
    sections = yaml.safe_load(run_file.read_text(encoding="utf-8"))
    run_file.write_text(yaml.safe_dump({**sections, "stages": stages}), encoding="utf-8")
    assert main(["train", "cpt", "-q", "-c", str(run_file)]) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert "Traceback" not in printed.err
