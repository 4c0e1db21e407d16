"""The lens against plain Qwen3 on interleaved embeddings, row by row; its verb as a user calls it."""

from __future__ import annotations

import json
import math

import pytest
import torch

import hidden_decoding
from hidden_decoding.cli.main import main
from hidden_decoding.errors import ConfigError
from hidden_decoding.modeling import stream_readout
from tests.equivalence.tolerances import FP32_LOGITS
from tests.support import BruteForce, tiny_model

PROMPT, ANSWER = [5, 17, 300, 44], [7, 120, 3, 499, 61, 8]
CASES = [(1, "contiguous"), (2, "linear"), (4, "contiguous"), (8, "linear")]


def brute_force(model, ids):
    """(log-probabilities of every row [P, V], hidden states by depth [P, D]) of plain Qwen3."""
    force = BruteForce(model)
    rows = torch.stack([table(torch.tensor(token)) for token in ids for table in force.tables])[None]
    with torch.no_grad():
        outputs = force.reference(inputs_embeds=rows, output_hidden_states=True, use_cache=False)
    return outputs.logits[0].log_softmax(-1), [h[0] for h in outputs.hidden_states]


@pytest.mark.parametrize(("n", "scheme"), CASES)
def test_the_numbers_are_brute_forces(n, scheme, monkeypatch):
    monkeypatch.setattr(stream_readout, "ROWS_AT_ONCE", 5)  # chunks that divide nothing
    model = tiny_model(n, scheme)
    found = hidden_decoding.lens(model, prompt_ids=PROMPT, answer_ids=ANSWER, top=3)
    logp_PV, by_depth = brute_force(model, PROMPT + ANSWER)
    assert (found.streams, len(found.tokens), len(found.cosine)) == (n, len(ANSWER), len(by_depth))
    assert len(found.layers) == len(by_depth)
    for index, token in enumerate(found.tokens):
        assert token.token_id == ANSWER[index]
        before = len(PROMPT) - 1 + index
        rows_NV = logp_PV.unflatten(0, (-1, n))[before]
        for stream, guess in enumerate(token.streams):
            expected = rows_NV[stream].exp().topk(3)
            assert [one.probability for one in guess.top] == pytest.approx(expected.values.tolist(), abs=FP32_LOGITS)
            assert [one.token_id for one in guess.top] == expected.indices.tolist()
            entropy = -float((rows_NV[stream].exp() * rows_NV[stream]).sum()) / math.log(2)
            assert guess.entropy_bits == pytest.approx(entropy, abs=1e-4)
            assert guess.agrees == (int(rows_NV[stream].argmax()) == int(rows_NV[-1].argmax()))
    predicting = slice(len(PROMPT) - 1, len(PROMPT) + len(ANSWER) - 1)
    for cosine, h_PD in zip(found.cosine, by_depth, strict=True):
        h_AND = h_PD.unflatten(0, (-1, n))[predicting]
        assert cosine == pytest.approx(torch.cosine_similarity(h_AND, h_AND[:, -1:], dim=-1).mean(0).tolist(), abs=1e-5)
        assert cosine[-1] == pytest.approx(1.0, abs=1e-5)


def test_the_last_stream_says_what_greedy_decoding_says():
    model = tiny_model(4)
    answer, _ = BruteForce(model).greedy(PROMPT, 6)
    found = hidden_decoding.lens(model, prompt_ids=PROMPT, answer_ids=answer)
    assert [token.streams[-1].top[0].token_id for token in found.tokens] == answer
    assert not all(stream.agrees for token in found.tokens for stream in token.streams[:-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_ids": []}, "at least one token of a prompt"),
        ({"answer_ids": []}, "at least one token of a prompt"),
        ({"prompt_ids": [512]}, "token id 512 is outside the vocabulary of 512"),
        ({"prompt_ids": [1] * 256}, "262 tokens, and the context holds 256"),
        ({"top": 0}, "top is 0"),
    ],
)
def test_bad_inputs_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        hidden_decoding.lens(tiny_model(2), **{"prompt_ids": PROMPT, "answer_ids": ANSWER, **change})


def test_the_verb(tiny_checkpoint, tmp_path, capsys):
    directory, picture = str(tiny_checkpoint(4)), tmp_path / "lens.png"
    asked = ["lens", directory, "--prompt-ids", "5,17,300", "--max-tokens", "5"]
    assert main([*asked, "--json", "--out", str(picture)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["streams"], len(found["tokens"])) == (4, 5)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(asked) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "token"
    assert lines[-1].startswith("entropy in bits; agreement")
    assert lines[-1].endswith("100%")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-tokens", "0"], "--max-tokens is 0"),
        (["--out", "no/such/folder/a.png"], "its directory does not exist"),
        (["--top", "0"], "top is 0"),
    ],
)
def test_the_verb_refuses(tiny_checkpoint, flags, message, capsys):
    assert main(["lens", str(tiny_checkpoint(2)), "--prompt-ids", "1,2", *flags]) == 2
    assert message in capsys.readouterr().err
