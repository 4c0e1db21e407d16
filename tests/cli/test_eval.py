"""`hidden-decoding eval` as a user calls it: two suites on a tiny model, compared, resumed, reported; refusals."""

from __future__ import annotations

import json
import socket

import pytest

from hidden_decoding.cli.main import main
from tests.evaluate.fixtures import write_everything
from tests.support import save_tiny_checkpoint


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    write_everything(directory, count=4)
    return directory


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """An n = 2 model and its n = 1 control, with 4,096 tokens of context."""
    folder = tmp_path_factory.mktemp("models")
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"num_key_value_heads": 1}
    return [save_tiny_checkpoint(folder / f"n{n}", n, max_position_embeddings=n * 4096, **shape) for n in (2, 1)]


def flags(data, out, *more):
    return ["--data", str(data), "--out", str(out), "--kv-cache-memory-bytes", "32MiB", *more]


def test_base_with_control_and_report(data, models, tmp_path, capsys):
    suites = ["--suite", "gsm8k", "--suite", "arc_challenge", "--max-answer-tokens", "3"]
    command = ["eval", "base", str(models[0]), "--control", str(models[1]), *flags(data, tmp_path / "run", *suites)]
    assert main([*command, "-q"]) == 0
    shown = capsys.readouterr().out
    assert "n1 (n = 1 control)" in shown
    assert "no published figures beside it: not the published set: 4 questions of 1,319" in shown
    answers = sorted((tmp_path / "run").glob("*/responses.jsonl"))
    assert len(answers) == 2
    before = [path.read_bytes() for path in answers]
    assert main([*command, "--json"]) == 0
    [report] = json.loads(capsys.readouterr().out)
    assert [path.read_bytes() for path in answers] == before  # nothing was asked again
    assert report["models"][0]["streams"] == 2
    assert report["models"][1]["streams"] == 1
    assert {row["name"] for row in report["suites"]} == {"gsm8k", "arc_challenge"}
    for name in ("report.json", "report.md", "report.html"):
        assert (tmp_path / "run" / name).stat().st_size > 500
    assert main(["eval", "report", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["suites"] == report["suites"]


def test_instruct_samples_as_the_release(data, models, tmp_path, capsys):
    more = ["--suite", "aime25", "--samples", "3", "--max-answer-tokens", "3", "--limit", "2", "--json"]
    assert main(["eval", "instruct", str(models[0]), *flags(data, tmp_path, *more)]) == 0
    [report] = json.loads(capsys.readouterr().out)
    [row] = report["suites"]
    assert row["results"][0]["samples"] == 3
    assert row["results"][0]["spread"]["samples"] == 3
    assert report["models"][0]["settings"]["thinking"] is False


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "nonsense"], "--suite 'nonsense' is not in the base table; it has bbh"),
        (["--limit", "0"], "--limit is 0; it must be a whole number from 1"),
        (["--judge-model", "x"], "--judge-model 'x' needs --judge-url"),
        (["--suite", "mbpp_plus"], "allow that (in a sandbox) with --allow-code-execution"),
        (["--data", "/nowhere"], "--data '/nowhere' is not a directory"),
        (["--suite", "gsm8k", "--base-url", "nonsense"], "--base-url 'nonsense' is no URL"),
        (["--suite", "gsm8k", "--base-url", "http://127.0.0.1:PORT/v1"], "/v1/models cannot be reached"),
        (["--suite", "gsm8k", "--control", "MODEL"], "is named twice"),
        (["--suite", "gsm8k", "--compare", "/no/model"], "'/no/model' is not a directory"),
        (["--suite", "gsm8k", "--tokenizer", "/no/dir", "--base-url", "http://127.0.0.1:1/v1"], "holds no tokenizer"),
    ],
)
def test_misuse_is_one_clear_line(arguments, message, data, models, tmp_path, capsys):
    model = str(models[0])
    port = str(closed_port())
    arguments = [argument.replace("PORT", port).replace("MODEL", model) for argument in arguments]
    given = ["--data", str(data)] if "--data" not in arguments else []
    limit = ["--limit", "1"] if "--limit" not in arguments else []
    code = main(
        ["eval", "base", model, "--out", str(tmp_path), "--max-answer-tokens", "2", "-q", *given, *limit, *arguments]
    )
    error = capsys.readouterr().err
    assert code == 2
    [line] = [line for line in error.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "Traceback" not in error


def test_a_missing_data_set_is_named(models, tmp_path, capsys):
    assert main(["eval", "instruct", str(models[0]), "--data", str(tmp_path), "--suite", "gpqa_diamond", "-q"]) == 2
    assert "GPQA-Diamond is not in --data" in capsys.readouterr().err


def test_report_of_nothing(tmp_path, capsys):
    assert main(["eval", "report", str(tmp_path)]) == 2
    assert "holds no results.json" in capsys.readouterr().err
