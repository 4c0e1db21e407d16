"""`generate` as a user runs it: text or ids in, text or JSON out, misuse in one line."""

from __future__ import annotations

import json

import pytest

from hidden_decoding.cli.main import main
from tests.support import LOGIT_TOLERANCE, BruteForce, assert_same_greedy, tiny_model


def test_ids_in_json_out_equals_brute_force(tiny_checkpoint, capsys):
    flags = ["--max-tokens", "8", "--temperature", "0", "--json", "--ignore-eos"]
    code = main(["generate", str(tiny_checkpoint(4)), "--prompt-ids", "5,6,7", *flags])
    report = json.loads(capsys.readouterr().out)
    assert code == 0
    expected, gaps = BruteForce(tiny_model(4)).greedy([5, 6, 7], 8)
    assert_same_greedy(report["token_ids"], expected, gaps, LOGIT_TOLERANCE)
    assert report["answer_tokens"] == 8
    assert report["seconds"] > 0


def test_a_directory_without_a_tokenizer_takes_ids(tmp_path, capsys):
    tiny_model(2).save_pretrained(tmp_path / "m")
    assert main(["generate", str(tmp_path / "m"), "--prompt-ids", "5 6", "--max-tokens", "3"]) == 0
    assert len(capsys.readouterr().out.split()) == 3
    assert main(["generate", str(tmp_path / "m"), "--prompt", "text"]) == 2
    assert "has no tokenizer; send token ids" in capsys.readouterr().err


def test_text_streams_to_standard_output(tiny_checkpoint, capsys):
    assert (
        main(["generate", str(tiny_checkpoint(2)), "--prompt", "The language", "--max-tokens", "9", "--seed", "3"]) == 0
    )
    first = capsys.readouterr()
    assert "9 tokens in" in first.err or "ended by stop" in first.err
    assert "2 positions per token" in first.err
    main(["generate", str(tiny_checkpoint(2)), "--prompt", "The language", "--max-tokens", "9", "--seed", "3", "-q"])
    assert capsys.readouterr().out == first.out, "the same seed gives the same text"


def test_chat_goes_through_the_template(tiny_checkpoint, capsys):
    assert main(["generate", str(tiny_checkpoint(2)), "--chat", "--prompt", "Hi", "--max-tokens", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt_tokens"] > 5


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--prompt-ids", "1,x"], "must be whole numbers"),
        (["--prompt-ids", ""], "the prompt is empty"),
        (["--prompt-ids", "512"], "the vocabulary ends at 511"),
        (["--prompt-ids", "5", "--chat"], "--chat needs --prompt"),
        (["--prompt-ids", "5", "--temperature", "-1"], "temperature is -1.0"),
        (["--prompt-ids", "5", "--max-model-len", "1000"], "256 tokens = 512 positions"),
        (["--prompt-ids", "5", "--kv-cache-memory-bytes", "much"], "not a size"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(tiny_checkpoint, capsys, flags, words):
    assert main(["generate", str(tiny_checkpoint(2)), *flags]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("verb", ["serve", "generate", "lens", "upcycle", "export", "inspect"])
def test_the_flag_that_model_cards_carry_is_accepted(verb):
    from hidden_decoding.cli.main import build_parser

    needed = {"generate": ["--prompt", "x"], "lens": ["--prompt", "x"], "upcycle": ["--streams", "2", "--out", "o"]}
    rest = needed.get(verb, ["--out", "o"] if verb == "export" else [])
    assert build_parser().parse_args([verb, "m", *rest, "--trust-remote-code"]).trust_remote_code
