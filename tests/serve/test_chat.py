"""`/v1/chat/completions` through the official client: templates, thinking, tools, JSON, log-probabilities."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest
import torch

from tests.serve.support import SCRIPTS, running_server
from tests.support import LOGIT_TOLERANCE, assert_same_greedy, tiny_tokenizer

HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "additionalProperties": False}}}


def say(server, script: str, **options):
    """The scripted model's answer."""
    kwargs = {"script": script, **options.pop("kwargs", {})}
    return server.openai().chat.completions.create(
        model="default", messages=HELLO, temperature=0, extra_body={"chat_template_kwargs": kwargs}, **options
    )


def streamed(chunks) -> dict:
    """All of a stream put together by hand, checking the order of its parts."""
    found = {"content": "", "reasoning": "", "tools": [], "finish": None, "usage": None, "chunks": 0}
    for number, chunk in enumerate(chunks):
        found["chunks"] += 1
        found["usage"] = chunk.usage or found["usage"]
        for choice in chunk.choices:
            delta = choice.delta
            assert (delta.role == "assistant") == (number == 0), "the role comes first, and once"
            assert found["finish"] is None
            extra = delta.model_extra or {}
            assert extra.get("reasoning") == extra.get("reasoning_content"), "both names carry the thinking"
            found["reasoning"] += extra.get("reasoning") or ""
            found["content"] += delta.content or ""
            for call in delta.tool_calls or []:
                if call.index == len(found["tools"]):
                    assert call.id
                    assert call.type == "function"
                    found["tools"].append([call.function.name, ""])
                found["tools"][call.index][1] += call.function.arguments or ""
            if choice.finish_reason:
                assert delta.content is None
                assert delta.tool_calls is None
                found["finish"] = choice.finish_reason
    return found


# ------------------------------------------------------------------------------------------------ the model's answer


def test_greedy_answer_equals_brute_force(server, brute):
    tokenizer = tiny_tokenizer()
    prompt = tokenizer.encode("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False)
    expected, gaps = brute.greedy(prompt, 12)
    answer = server.openai().chat.completions.create(
        model="tiny",
        messages=HELLO,
        max_tokens=12,
        temperature=0,
        extra_body={"return_token_ids": True, "ignore_eos": True},
    )
    choice = answer.choices[0]
    assert answer.model_extra["prompt_token_ids"] == prompt
    assert assert_same_greedy(choice.token_ids, expected, gaps, LOGIT_TOLERANCE) > 6
    assert choice.message.content == tokenizer.decode(choice.token_ids, skip_special_tokens=True)
    assert answer.usage.prompt_tokens == len(prompt)


def test_logprobs_equal_brute_force(server, brute):
    answer = server.openai().chat.completions.create(
        model="tiny",
        messages=HELLO,
        max_completion_tokens=5,
        max_tokens=99,
        temperature=0,
        logprobs=True,
        top_logprobs=2,
        extra_body={"return_token_ids": True, "ignore_eos": True},
    )
    choice = answer.choices[0]
    prompt = answer.model_extra["prompt_token_ids"]
    table = torch.log_softmax(brute.logits(prompt + choice.token_ids), -1)
    entries = choice.logprobs.content
    assert len(entries) == len(choice.token_ids) == 5, "max_completion_tokens wins"
    for index, (entry, token) in enumerate(zip(entries, choice.token_ids, strict=True)):
        row = table[len(prompt) + index - 1]
        assert entry.logprob == pytest.approx(float(row[token]), abs=1e-4)
        best = [float(value) for value in row.topk(2).values]
        assert [top.logprob for top in entry.top_logprobs] == pytest.approx(best, abs=1e-4)
    spelled = b"".join(bytes(entry.bytes) for entry in entries)
    assert spelled.decode("utf-8", "replace") == tiny_tokenizer().decode(choice.token_ids)


def test_chat_ends_at_im_end_though_the_configs_end_is_another(server):
    ended = server.openai().chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=9, temperature=0, logit_bias={"2": 100}
    )
    assert tiny_tokenizer().convert_ids_to_tokens(2) == "<|im_end|>"
    assert ended.choices[0].finish_reason == "stop"
    assert ended.choices[0].message.content == ""


def test_n_samples_stream_apart(server):
    request = {"model": "tiny", "messages": HELLO, "max_tokens": 10, "temperature": 1.2, "seed": 3, "n": 3}
    whole = server.openai().chat.completions.create(**request)
    texts, roles = [""] * 3, [0] * 3
    for chunk in server.openai().chat.completions.create(**request, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            roles[choice.index] += choice.delta.role is not None
    assert texts == [choice.message.content for choice in whole.choices]
    assert len(set(texts)) == 3
    assert roles == [1, 1, 1]
    assert whole.usage.completion_tokens == 30


def test_parts_developer_and_continuing_the_last_message(server):
    tokenizer = tiny_tokenizer()
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "Well, "},
    ]
    answer = server.openai().chat.completions.create(
        model="tiny",
        messages=messages,
        max_tokens=1,
        extra_body={"return_token_ids": True, "continue_final_message": True},
    )
    text = tokenizer.decode(answer.model_extra["prompt_token_ids"])
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n")
    assert text.rstrip().endswith("<|im_start|>assistant\nWell,")


def test_async_client_streams(server):
    async def run():
        async with server.async_openai() as client:
            stream = await client.chat.completions.create(
                model="tiny", messages=HELLO, max_tokens=6, temperature=0, stream=True
            )
            return "".join([choice.delta.content or "" async for chunk in stream for choice in chunk.choices])

    whole = server.openai().chat.completions.create(model="tiny", messages=HELLO, max_tokens=6, temperature=0)
    assert asyncio.run(run()) == whole.choices[0].message.content


# ------------------------------------------------------------------------------------------------------ thinking


@pytest.mark.parametrize(
    ("script", "kwargs", "reasoning", "content", "thinking_tokens"),
    [
        ("think", {}, "Let me see.", "It is 4!", 8),
        ("split", {}, "Two plus two", "four <think> end", 6),
        ("plain", {}, "", "Just an answer < </tool x", 0),
        ("bytes", {}, "", " Grüße 你好 🙂 bye", 0),
        # Without the tag in the text the closing one is no tag either.
        ("open", {}, "", "still thinking</think>ready", 0),
    ],
)
def test_thinking_is_told_from_the_answer(scripted, script, kwargs, reasoning, content, thinking_tokens):
    answer = say(scripted, script, kwargs=kwargs)
    message = answer.choices[0].message
    assert message.content == content
    assert (message.model_extra.get("reasoning") or "") == reasoning
    assert (message.model_extra.get("reasoning_content") or "") == reasoning
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens_details.reasoning_tokens == thinking_tokens
    found = streamed(say(scripted, script, kwargs=kwargs, stream=True, stream_options={"include_usage": True}))
    assert (found["reasoning"], found["content"], found["finish"]) == (reasoning, content, "stop")
    assert found["usage"].completion_tokens_details.reasoning_tokens == thinking_tokens
    assert found["usage"].completion_tokens == len(SCRIPTS[script]) + 1  # and the end token


def test_thinking_that_the_template_opened(scripted_checkpoint):
    with running_server(scripted_checkpoint, template="<think>") as server:
        # The scripted model goes on after the tag as it does in its own script.
        found = streamed(say(server, "think", stream=True))
    assert (found["reasoning"], found["content"]) == ("Let me see.", "It is 4!")


def test_thinking_cut_short_is_all_thinking(scripted):
    answer = say(scripted, "think", max_tokens=5)
    assert answer.choices[0].message.model_extra["reasoning"] == "Let me see"
    assert answer.choices[0].message.content == ""
    assert answer.choices[0].finish_reason == "length"


def test_the_splitter_can_be_switched_off(scripted_checkpoint):
    with running_server(scripted_checkpoint, reasoning_parser="none") as server:
        message = say(server, "think").choices[0].message
    assert message.content == "".join(SCRIPTS["think"])
    assert "reasoning" not in message.model_extra


# --------------------------------------------------------------------------------------------------------- tools


CALLS = [["get_weather", '{"city": "Paris"}'], ["add", "{}"]]


def test_tool_calls_are_parsed(scripted):
    answer = say(scripted, "tool", tools=[WEATHER, ADD])
    message = answer.choices[0].message
    assert [[call.function.name, call.function.arguments] for call in message.tool_calls] == CALLS
    assert message.content == "I look it up."
    assert answer.choices[0].finish_reason == "tool_calls"
    assert len({call.id for call in message.tool_calls}) == 2
    found = streamed(say(scripted, "tool", tools=[WEATHER, ADD], stream=True))
    assert (found["tools"], found["content"], found["finish"]) == (CALLS, "I look it up.", "tool_calls")


def test_arguments_stream_before_they_are_complete(scripted):
    pieces = [
        call.function.arguments
        for chunk in say(scripted, "tool", tools=[WEATHER, ADD], stream=True)
        for choice in chunk.choices
        for call in choice.delta.tool_calls or []
        if call.index == 0
    ]
    assert "".join(pieces) == '{"city": "Paris"}'
    assert len(pieces) >= 4


def test_without_tools_a_call_is_text(scripted):
    for options in ({}, {"tools": [WEATHER], "tool_choice": "none"}):
        answer = say(scripted, "tool", **options)
        assert answer.choices[0].message.tool_calls is None
        assert answer.choices[0].message.content == "".join(SCRIPTS["tool"])
        assert answer.choices[0].finish_reason == "stop"


def test_a_block_that_is_no_call_stays_text(scripted):
    answer = say(scripted, "badtool", tools=[WEATHER])
    assert answer.choices[0].message.content == "".join(SCRIPTS["badtool"])
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"get_weather", "add"}),
        ({"type": "function", "function": {"name": "get_weather"}}, {"get_weather"}),
    ],
)
def test_a_demanded_call_follows_its_schema(server, choice, names):
    request = {
        "model": "tiny",
        "messages": HELLO,
        "tools": [WEATHER, ADD],
        "tool_choice": choice,
        "max_tokens": 200,
        "temperature": 0,
    }
    answer = server.openai().chat.completions.create(**request)
    call = answer.choices[0].message.tool_calls[0].function
    assert call.name in names
    arguments = json.loads(call.arguments)
    if call.name == "get_weather":
        assert arguments["city"] == "Rome"
    assert answer.choices[0].message.content is None
    assert answer.choices[0].finish_reason == "tool_calls"
    found = streamed(server.openai().chat.completions.create(**request, stream=True))
    assert found["tools"] == [[call.name, call.arguments]]


def test_the_real_template_shows_tools_and_history(server, data_dir):
    template = (data_dir / "tokenizer" / "qwen3" / "chat_template.jinja").read_text()
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "user", "content": "add"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
    ]
    body = {"messages": messages, "tools": [ADD], "chat_template_kwargs": {"enable_thinking": False}}
    state = server.state
    old, state.prompts.chat_template = state.prompts.chat_template, template
    try:
        with server.http() as http:
            tokens = http.post("/tokenize", json=body).raise_for_status().json()["tokens"]
            text = http.post("/detokenize", json={"tokens": tokens}).json()["prompt"]
    finally:
        state.prompts.chat_template = old
    assert text.count('"name": "add"') == 2, "once on offer, once in the history"
    assert '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>' in text
    assert "<tool_response>\n2\n</tool_response>" in text
    assert text.endswith("<think>\n\n</think>\n\n")


# ------------------------------------------------------------------------------------------------------ JSON answers


def test_json_object_and_schema(server):
    schema = {
        "type": "object",
        "properties": {"b": {"type": "boolean"}},
        "required": ["b"],
        "additionalProperties": False,
    }
    client = server.openai()
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=100, temperature=0, response_format=wanted
    )
    assert isinstance(json.loads(answer.choices[0].message.content)["b"], bool)
    anything = client.chat.completions.create(
        model="tiny",
        messages=HELLO,
        max_tokens=20,
        temperature=0,
        response_format={"type": "json_object"},
    )
    assert anything.choices[0].message.content.lstrip().startswith("{")


def test_a_schema_that_cannot_be_used_is_refused(server):
    for options, param in (
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nope"}}}}, "response_format"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "nope"}}}],
                "tool_choice": "required",
            },
            "tools",
        ),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            server.openai().chat.completions.create(model="tiny", messages=HELLO, extra_body=options)
        assert refused.value.param == param


def test_a_model_without_a_template_names_the_other_route(tiny_checkpoint, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in tiny_checkpoint(2).iterdir():
        if file.suffix != ".jinja":
            (bare / file.name).write_bytes(file.read_bytes())
    settings = json.loads((bare / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (bare / "tokenizer_config.json").write_text(json.dumps(settings))
    with running_server(bare) as server:
        with pytest.raises(openai.BadRequestError, match="/v1/completions"):
            server.openai().chat.completions.create(model="default", messages=HELLO)
        assert server.openai().completions.create(model="default", prompt="a", max_tokens=2).usage.total_tokens > 2
