"""`hidden-decoding inspect` as a user meets it: table, JSON, and every kind of bad input as one message."""

import json
import subprocess
import sys

import pytest

from hidden_decoding.cli.main import main
from tests.modeling.damage import PUBLISHED_8B_N8, copy_of, corrupt_header, edit_config, shard, truncate

CONTRACT = {
    "streams",
    "parameters",
    "weight_bytes",
    "kv_bytes_per_token",
    "context",
    "position_scheme",
    "missing",
    "unexpected",
}


@pytest.fixture
def published(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED_8B_N8))
    return tmp_path


def test_json_has_the_keys_of_the_contract(published, capsys):
    assert main(["inspect", str(published), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report.keys() >= CONTRACT
    assert report["parameters"].keys() == {"total", "backbone", "input_embeddings", "lm_head"}
    assert report["context"] == {"tokens": 16384, "positions": 131072}
    assert report["missing"] is None
    assert "plan" not in report


def test_the_table_says_tokens_and_positions(published, capsys):
    assert main(["inspect", str(published)]) == 0
    shown = capsys.readouterr().out
    for line in (
        "12,547 M in all",
        "4,979 M in 8 tables",
        "622 M",
        "1,179,648 bytes per token",
        "16,384 tokens = 131,072 positions",
        "contiguous (rope_theta 1000000.0)",
        "not checked: there are no weights here",
    ):
        assert line in shown


def test_missing_tensors_are_a_report_not_a_failure(tiny_checkpoint, tmp_path, capsys):
    directory = edit_config(copy_of(tiny_checkpoint(2), tmp_path / "n2"), scale_seq_times=2)
    assert main(["inspect", str(directory)]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert words.endswith("missing tensors 1: model.scale_seq_embed_tokens_list.1.weight")


def test_the_plan_is_printed_and_in_the_json(published, capsys):
    flags = ["inspect", str(published), "--plan", "--gpus", "2", "--gpu-memory", "24"]
    assert main(flags) == 0
    assert "18,049 tokens = 144,392 positions" in capsys.readouterr().out
    assert main([*flags, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["tokens"] == 18049


def bad_inputs(tiny_checkpoint, tmp_path):
    def fresh(name, n=2):
        return copy_of(tiny_checkpoint(n), tmp_path / name)

    yield truncate(fresh("truncated")), "truncated"
    yield corrupt_header(fresh("corrupt")), "model.safetensors"
    sharded = fresh("sharded")
    shard(sharded)
    (sharded / "model-00002-of-00003.safetensors").unlink()
    yield sharded, "model-00002-of-00003.safetensors"
    yield edit_config(fresh("negative"), scale_seq_times=-1), "scale_seq_times is -1"
    yield edit_config(fresh("fraction"), scale_seq_times=1.5), "scale_seq_times is 1.5"
    yield edit_config(fresh("rope"), rope_parameters={"rope_type": "spiral", "rope_theta": 1e4}), '"spiral"'
    yield edit_config(fresh("other"), model_type="llama"), "'llama'"
    no_json = fresh("no-json")
    (no_json / "config.json").write_text("{")
    yield no_json, "not valid JSON"
    yield tmp_path / "absent", "is not a directory"


def test_bad_inputs_are_one_message_and_exit_code_2(tiny_checkpoint, tmp_path, capsys):
    for directory, says in bad_inputs(tiny_checkpoint, tmp_path):
        assert main(["inspect", str(directory)]) == 2, directory
        out, err = capsys.readouterr()
        assert out == ""
        assert says in err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err


def test_bad_input_in_a_real_process(tiny_checkpoint, tmp_path):
    directory = truncate(copy_of(tiny_checkpoint(2), tmp_path / "truncated"))
    line = [sys.executable, "-m", "hidden_decoding.cli.main", "inspect", str(directory)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "truncated" in done.stderr
    assert "Traceback" not in done.stderr


def test_misused_flags_exit_with_2(published, capsys):
    assert main(["inspect", str(published), "--plan"]) == 2
    assert "--gpu-memory 80" in capsys.readouterr().err
    assert main(["inspect", str(published), "--plan", "--gpus", "0", "--gpu-memory", "80"]) == 2
    assert "--gpus is 0" in capsys.readouterr().err
