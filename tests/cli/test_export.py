"""`hidden-decoding export` as a user meets it."""

import json

from hidden_decoding.cli.main import main
from hidden_decoding.modeling.checkpoint import load_model
from tests.modeling.damage import copy_of, corrupt_header, edit_config, truncate
from tests.support import plain_qwen3, tiny_model


def test_export_reports_and_the_result_loads(tiny_checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["--dtype", "bfloat16", "--max-shard-size", "100KB"]
    assert main(["export", str(tiny_checkpoint(4)), "--out", str(out), "--json", *flags]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["streams"], report["dtype"]) == (4, "bfloat16")
    assert report["weight_files"] == len(list(out.glob("*.safetensors"))) > 1
    assert load_model(out).config.num_streams == 4


def test_the_human_report_names_the_next_command(tiny_checkpoint, tmp_path, capsys):
    assert main(["export", str(tiny_checkpoint(2)), "--out", str(tmp_path / "out")]) == 0
    assert f"hidden-decoding inspect {tmp_path / 'out'}" in capsys.readouterr().out


def test_bad_inputs_are_one_message_exit_code_2_and_no_output_directory(tiny_checkpoint, tmp_path, capsys):
    plain = tmp_path / "plain"
    plain_qwen3(tiny_model(1)).save_pretrained(plain)
    edit_config(plain, model_type="qwen3_scale_seq", architectures=None, scale_seq_times=1)
    cases = [
        (plain, "hidden-decoding upcycle"),
        (truncate(copy_of(tiny_checkpoint(2), tmp_path / "truncated")), "truncated"),
        (corrupt_header(copy_of(tiny_checkpoint(2), tmp_path / "corrupt")), "model.safetensors"),
        (edit_config(copy_of(tiny_checkpoint(2), tmp_path / "negative"), scale_seq_times=-1), "scale_seq_times"),
    ]
    for directory, says in cases:
        assert main(["export", str(directory), "--out", str(tmp_path / "out")]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert says in err
        assert "Traceback" not in err
        assert not (tmp_path / "out").exists()


def test_a_target_that_is_not_empty_needs_overwrite(tiny_checkpoint, tmp_path, capsys):
    target = copy_of(tiny_checkpoint(2), tmp_path / "out")
    assert main(["export", str(tiny_checkpoint(4)), "--out", str(target)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert load_model(target).config.num_streams == 2
    assert main(["export", str(tiny_checkpoint(4)), "--out", str(target), "--overwrite"]) == 0
    assert load_model(target).config.num_streams == 4
