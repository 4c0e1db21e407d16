"""What clients written for the original model send: `model="default"`, vLLM's extra fields, thinking on and off."""

from __future__ import annotations

import pytest

from tests.support import tiny_tokenizer

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def client(server):
    return server.openai()


def test_default_names_the_served_model(client):
    answer = client.chat.completions.create(model="default", messages=HELLO, max_tokens=6, temperature=0)
    named = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=6, temperature=0)
    assert answer.model == named.model == "tiny"
    assert answer.choices[0].message.content == named.choices[0].message.content
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_the_fields_it_sends_are_understood(client, server):
    """Sampling as the original's model card asks for, through `extra_body`; a seed makes it the same twice."""
    request = {
        "model": "default",
        "messages": [{"role": "system", "content": "You are a helpful assistant."}, *HELLO],
        "max_tokens": 12,
        "temperature": 0.7,
        "top_p": 0.8,
        "presence_penalty": 1.5,
        "seed": 7,
        "extra_body": {"top_k": 20, "min_p": 0.0, "repetition_penalty": 1.05},
    }
    first, second = (client.chat.completions.create(**request) for _ in range(2))
    assert first.choices[0].message.content == second.choices[0].message.content
    assert first.usage.completion_tokens <= 12
    assert not server.state._unknown_fields & {"top_k", "min_p", "repetition_penalty", "chat_template_kwargs"}


@pytest.mark.parametrize("thinking", [True, False])
def test_thinking_is_switched_through_the_template(client, thinking):
    request = {"model": "default", "messages": HELLO, "max_tokens": 8, "temperature": 0}
    body = {"chat_template_kwargs": {"enable_thinking": thinking}}
    whole = client.chat.completions.create(**request, extra_body=body)
    deltas = [
        chunk.choices[0].delta
        for chunk in client.chat.completions.create(**request, extra_body=body, stream=True)
        if chunk.choices
    ]
    text = "".join(delta.content or "" for delta in deltas)
    assert text, "an answer without thinking is content, never null"
    assert text == whole.choices[0].message.content
    assert deltas[0].role == "assistant"


def test_completions_of_the_default_model(client):
    ids = tiny_tokenizer().encode("Hello")
    by_text = client.completions.create(model="default", prompt="Hello", max_tokens=6, temperature=0)
    by_ids = client.completions.create(model="default", prompt=ids, max_tokens=6, temperature=0)
    assert by_text.choices[0].text == by_ids.choices[0].text
    assert by_text.usage.prompt_tokens == len(ids)
