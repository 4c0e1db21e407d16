"""`hidden-decoding upcycle` as typed: what it prints, its exit codes, and that misuse ends in one clear line."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys

import pytest

from hidden_decoding.cli.main import main
from hidden_decoding.modeling.checkpoint import load_config


def test_says_what_was_made_and_the_next_command_works(tiny_checkpoint, tmp_path, capsys):
    out = tmp_path / "with space"
    assert main(["upcycle", str(tiny_checkpoint(1)), "--streams", "4", "--out", str(out), "--noise", "0.1"]) == 0
    printed = capsys.readouterr().out
    for said in (
        f"made      {out}\n",
        "streams   4 (the base has 1)\n",
        "(3 copied)\n",
        "0.1 of the copied table's standard deviation, seed 0\n",
        "context   256 tokens = 1024 positions\n",
        "train cpt",
    ):
        assert said in printed
    assert load_config(out).num_streams == 4
    label, command = printed.splitlines()[-1].split(maxsplit=1)
    assert label == "next"
    program, *arguments = shlex.split(command)
    assert program == "hidden-decoding"
    assert main(arguments) == 0


def test_json_and_quiet(tiny_checkpoint, tmp_path, capsys):
    arguments = ["upcycle", str(tiny_checkpoint(2)), "--streams", "4", "--out", str(tmp_path / "out")]
    capsys.readouterr()
    assert main([*arguments, "--positions", "contiguous", "--json", "--quiet", "--max-shard-size", "300KB"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert captured.err == ""
    assert report["streams"] == 4
    assert report["base_streams"] == 2
    assert report["tables_copied"] == 2
    assert report["position_scheme"] == "contiguous"
    assert report["context"] == {"tokens": 128, "positions": 512}
    files = list((tmp_path / "out").glob("*.safetensors"))
    assert report["weight_files"] == len(files) > 1
    assert report["weight_bytes"] < sum(path.stat().st_size for path in files) < report["weight_bytes"] + 20_000


def test_the_default_is_linear(tiny_checkpoint, tmp_path, capsys):
    assert main(["upcycle", str(tiny_checkpoint(1)), "--streams", "2", "--out", str(tmp_path / "out"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["position_scheme"], report["context"]["tokens"], report["context"]["positions"]) == (
        "linear",
        256,
        512,
    )


@pytest.fixture
def truncated_base(tiny_checkpoint, tmp_path):
    base = shutil.copytree(tiny_checkpoint(1), tmp_path / "broken")
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return base


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["BASE", "--streams", "1", "--out", "OUT"], "has that many already"),
        (["BASE", "--streams", "0", "--out", "OUT"], "--streams is 0"),
        (["BASE", "--streams", "2", "--out", "OUT", "--noise", "-1"], "--noise is -1.0"),
        (["BASE", "--streams", "2", "--out", "OUT", "--max-shard-size", "5 parsecs"], "not a size"),
        (["BASE", "--streams", "2", "--out", "BASE", "--overwrite"], "the checkpoint that is read"),
        (["BASE", "--streams", "2", "--out", "BASE"], "--overwrite"),
        (["./absent", "--streams", "2", "--out", "OUT"], "not a directory"),
        (["BROKEN", "--streams", "2", "--out", "OUT"], "truncated"),
    ],
)
def test_misuse_is_one_clear_message_and_exit_code_2(
    tiny_checkpoint, truncated_base, tmp_path, capsys, arguments, said
):
    base = shutil.copytree(tiny_checkpoint(1), tmp_path / "base")
    places = {"BASE": str(base), "BROKEN": str(truncated_base), "OUT": str(tmp_path / "out")}
    assert main(["upcycle", *(places.get(word, word) for word in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert said in captured.err
    assert captured.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "broken"]


@pytest.mark.parametrize("arguments", [["base", "--out", "x"], ["base", "--streams", "two", "--out", "x"]])
def test_what_argparse_refuses_also_ends_with_2(arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["upcycle", *arguments])
    assert stopped.value.code == 2


def test_in_a_process_of_its_own_misuse_prints_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "hidden_decoding.cli.main", "upcycle", "./absent", "--streams", "2", "--out", "out"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1


def test_help_loads_neither_torch_nor_transformers():
    code = (
        "import sys; from hidden_decoding.cli.main import main\n"
        "try: main(['upcycle', '--help'])\n"
        "except SystemExit: pass\n"
        "print('LOADED', {'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--positions" in done.stdout
    assert "LOADED set()" in done.stdout
