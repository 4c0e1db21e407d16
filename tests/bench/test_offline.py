"""`bench offline`: the workload fits the model it meets, and what was asked for stays as asked."""

from __future__ import annotations

import json

from hidden_decoding.cli.main import main


def test_the_default_workload_fits_a_small_model(tiny_checkpoint, capsys):
    """The defaults are longer than this model's context and name tokens beyond its vocabulary."""
    flags = ["--num-prompts=3", "--output-len=4", "--kv-cache-memory-bytes=8MiB", "--json"]
    assert main(["bench", "offline", str(tiny_checkpoint(2)), *flags]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["max_request_tokens"], report["vocab_size"], report["streams"]) == (256, 512, 2)
    assert report["answer_tokens"] == 12
    assert report["total_num_tokens"] == report["prompt_tokens"] + 12


def test_lengths_that_were_asked_for_are_never_shortened(tiny_checkpoint, capsys):
    flags = ["--num-prompts=1", "--input-len=300", "--output-len=4", "--kv-cache-memory-bytes=8MiB"]
    assert main(["bench", "offline", str(tiny_checkpoint(2)), *flags]) == 2
    assert "the prompt has 300 tokens (600 positions)" in capsys.readouterr().err


def test_a_missing_model_is_one_line(capsys):
    assert main(["bench", "offline", "/nowhere/at/all"]) == 2
    assert "is not a directory" in capsys.readouterr().err
