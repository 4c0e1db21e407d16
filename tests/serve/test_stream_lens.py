"""`stream_lens: true` over HTTP: the same numbers as the Python call, in a stream and in a whole answer."""

from __future__ import annotations

import pytest

import hidden_decoding
from tests.support import tiny_model

PROMPT = [5, 17, 300, 44]
ASKED = {"model": "default", "temperature": 0, "max_tokens": 6, "extra_body": {"stream_lens": True}}


def close(found: dict, expected: dict) -> None:
    assert (found["streams"], found["layers"]) == (expected["streams"], expected["layers"])
    for one, other in zip(found["cosine"], expected["cosine"], strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    for one, other in zip(found["tokens"], expected["tokens"], strict=True):
        assert one["token_id"] == other["token_id"]
        for stream, same in zip(one["streams"], other["streams"], strict=True):
            assert stream["agrees"] == same["agrees"]
            assert stream["entropy_bits"] == pytest.approx(same["entropy_bits"], abs=1e-3)
            assert [guess["token_id"] for guess in stream["top"]] == [guess["token_id"] for guess in same["top"]]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_completion_with_its_lens(server, stream):
    body = ASKED | {"extra_body": {"stream_lens": True, "return_token_ids": True, "ignore_eos": True}}
    answer = server.openai().completions.create(prompt=PROMPT, stream=stream, **body)
    pieces = [chunk.choices[0] for chunk in answer] if stream else [answer.choices[0]]
    assert all(not (piece.model_extra or {}).get("stream_lens") for piece in pieces[:-1])
    ids = [token for piece in pieces for token in piece.model_extra["token_ids"]]
    found = pieces[-1].model_extra["stream_lens"]
    close(found, hidden_decoding.lens(tiny_model(2), prompt_ids=PROMPT, answer_ids=ids).to_dict())
    assert all(token["token"] for token in found["tokens"])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_chat_with_its_lens(server, stream):
    messages = [{"role": "user", "content": "Hello"}]
    asked = {**ASKED, "extra_body": {"stream_lens": True, "return_token_ids": True, "ignore_eos": True}}
    answer = server.openai().chat.completions.create(messages=messages, stream=stream, **asked)
    chunks = list(answer) if stream else [answer]
    prompt = next(chunk.model_extra["prompt_token_ids"] for chunk in chunks if "prompt_token_ids" in chunk.model_extra)
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    ids = [token for choice in choices for token in (choice.model_extra or {}).get("token_ids") or []]
    found = choices[-1].model_extra["stream_lens"]
    close(found, hidden_decoding.lens(tiny_model(2), prompt_ids=prompt, answer_ids=ids).to_dict())


def test_nothing_is_read_unasked(server):
    answer = server.openai().completions.create(prompt=PROMPT, model="default", max_tokens=2)
    assert "stream_lens" not in (answer.choices[0].model_extra or {})
