"""`/v1/completions` through the official client, against the brute-force reference."""

from __future__ import annotations

import asyncio
import json
import math

import pytest
import torch

from tests.serve.support import running_server
from tests.support import LOGIT_TOLERANCE, BruteForce, assert_same_greedy, tiny_model, tiny_tokenizer

PROMPTS = [[5, 6, 7], [40, 41, 42, 43, 44, 45, 46], [300], list(range(100, 130))]


@pytest.mark.parametrize("positions", ["contiguous", "linear"])
@pytest.mark.parametrize("num_streams", [1, 2, 3, 4, 8])
def test_greedy_tokens_equal_brute_force(tiny_checkpoint, num_streams, positions):
    reference = BruteForce(tiny_model(num_streams, positions))
    with running_server(tiny_checkpoint(num_streams, positions)) as server:
        answer = server.openai().completions.create(
            model="default",
            prompt=PROMPTS,
            max_tokens=12,
            temperature=0,
            extra_body={"return_token_ids": True, "ignore_eos": True},
        )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    for prompt, choice in zip(PROMPTS, answer.choices, strict=True):
        expected, gaps = reference.greedy(prompt, 12)
        assert assert_same_greedy(choice.token_ids, expected, gaps, LOGIT_TOLERANCE) > 6
        assert choice.prompt_token_ids == prompt
        assert choice.finish_reason == "length"
    assert answer.usage.prompt_tokens == sum(map(len, PROMPTS))
    assert answer.usage.completion_tokens == 4 * 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 48


def test_text_and_ids_are_the_same_prompt_and_text_is_the_decoded_ids(server):
    tokenizer, client = tiny_tokenizer(), server.openai()
    text = "def function(self): return 你好"
    options = {"model": "tiny", "max_tokens": 10, "temperature": 0, "extra_body": {"return_token_ids": True}}
    by_text = client.completions.create(prompt=text, **options).choices[0]
    by_ids = client.completions.create(prompt=tokenizer.encode(text), **options).choices[0]
    listed = client.completions.create(prompt=[text, text], **options).choices
    assert by_text.token_ids == by_ids.token_ids == listed[0].token_ids == listed[1].token_ids
    assert by_text.text == by_ids.text == tokenizer.decode(by_text.token_ids, skip_special_tokens=True)


@pytest.mark.parametrize("options", [{}, {"n": 3, "seed": 5}, {"logprobs": 2, "echo": True}, {"stop": ["e", "zz"]}])
def test_a_stream_adds_up_to_the_whole_answer(server, options):
    client = server.openai()
    request = {"model": "tiny", "prompt": "import os", "max_tokens": 20, "temperature": 0.8, "seed": 1, **options}
    whole = client.completions.create(**request)
    texts = [""] * len(whole.choices)
    reasons: list[str | None] = [None] * len(whole.choices)
    logprobs: list[float | None] = []
    usage = None
    for chunk in client.completions.create(**request, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            assert reasons[choice.index] is None, "nothing follows the finish reason"
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason
            logprobs += choice.logprobs.token_logprobs if choice.logprobs else []
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert (usage.prompt_tokens, usage.completion_tokens) == (whole.usage.prompt_tokens, whole.usage.completion_tokens)
    if "logprobs" in options:
        assert logprobs[1:] == pytest.approx(whole.choices[0].logprobs.token_logprobs[1:], abs=1e-4)


def test_the_raw_stream_is_as_clients_expect_it(server):
    body = {"prompt": [1, 2, 3], "max_tokens": 3, "stream": True, "stream_options": {"include_usage": True}}
    with server.http() as http, http.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = "".join(answer.iter_text()).split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 3
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_logprobs_equal_brute_force_over_prompt_and_answer(server, brute):
    prompt = [20, 30, 40, 50, 60]
    choice = (
        server.openai()
        .completions.create(
            model="tiny",
            prompt=prompt,
            max_tokens=4,
            temperature=0,
            logprobs=3,
            echo=True,
            extra_body={"return_token_ids": True, "ignore_eos": True},
        )
        .choices[0]
    )
    ids = prompt + choice.token_ids
    table = torch.log_softmax(brute.logits(ids), -1)
    expected = [None] + [float(table[index - 1, ids[index]]) for index in range(1, len(ids))]
    assert choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.top_logprobs[0] is None
    assert choice.logprobs.token_logprobs[1:] == pytest.approx(expected[1:], abs=1e-4)
    for index in range(1, len(ids)):
        top = choice.logprobs.top_logprobs[index]
        assert max(top.values()) == pytest.approx(float(table[index - 1].max()), abs=1e-4)
        assert top[choice.logprobs.tokens[index]] == choice.logprobs.token_logprobs[index]
        assert 3 <= len(top) <= 4
    offsets = choice.logprobs.text_offset
    assert offsets[0] == 0
    assert offsets == sorted(offsets)
    assert len(offsets) == len(choice.logprobs.tokens) == len(ids)


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_scoring_as_lm_eval_does_it(server, brute, max_tokens):
    context, continuation = [10, 11, 12], [13, 14]
    prompts = [context + continuation, [9, 8, 7, 6]]
    answer = server.openai().completions.create(
        model="tiny", prompt=prompts, max_tokens=max_tokens, temperature=0, logprobs=1, echo=True, seed=1234
    )
    entries = answer.choices[0].logprobs
    end = -1 if max_tokens else None
    table = torch.log_softmax(brute.logits(prompts[0]), -1)
    expected = sum(float(table[len(context) + i - 1, token]) for i, token in enumerate(continuation))
    assert sum(entries.token_logprobs[len(context) : end]) == pytest.approx(expected, abs=2e-4)
    assert [len(choice.logprobs.tokens) for choice in answer.choices] == [5 + max_tokens, 4 + max_tokens]
    assert answer.usage.completion_tokens == 2 * max_tokens
    for value, top in zip(entries.token_logprobs[3:end], entries.top_logprobs[3:end], strict=True):
        assert value <= max(top.values())


def test_echo_puts_the_prompt_first(server):
    client = server.openai()
    whole = client.completions.create(model="tiny", prompt="abc def", max_tokens=5, temperature=0, echo=True).choices[0]
    alone = client.completions.create(model="tiny", prompt="abc def", max_tokens=5, temperature=0).choices[0]
    assert whole.text == f"abc def{alone.text}"


def test_a_stop_text_across_tokens_ends_the_answer_before_it(server):
    client = server.openai()
    request = {"model": "tiny", "prompt": "class A", "max_tokens": 30, "temperature": 0}
    free = client.completions.create(**request).choices[0].text
    stop = free[len(free) // 2 - 3 : len(free) // 2 + 3]
    whole = client.completions.create(**request, stop=[stop]).choices[0]
    assert whole.text == free[: free.index(stop)]
    assert whole.finish_reason == "stop"
    assert whole.stop_reason == stop
    pieces = list(client.completions.create(**request, stop=stop, stream=True))
    assert "".join(choice.text for piece in pieces for choice in piece.choices) == whole.text
    kept = client.completions.create(**request, stop=[stop], extra_body={"include_stop_str_in_output": True})
    assert kept.choices[0].text == whole.text + stop


def test_seeds_repeat_and_samples_differ(server):
    client = server.openai()
    request = {"model": "tiny", "prompt": "x = ", "max_tokens": 12, "temperature": 1.5}
    first = [choice.text for choice in client.completions.create(**request, seed=7, n=3).choices]
    again = [choice.text for choice in client.completions.create(**request, seed=7, n=3).choices]
    assert first == again
    assert len(set(first)) == 3, "each sample has a seed of its own"
    # Sample j of seed s is sample 0 of seed s + j, whatever else runs beside it.
    assert client.completions.create(**request, seed=9).choices[0].text == first[2]


def test_fields_that_steer_the_choice_of_tokens(server):
    client = server.openai()
    request = {"model": "tiny", "prompt": [50, 51], "max_tokens": 6, "temperature": 0}
    ids = {"return_token_ids": True, "ignore_eos": True}
    forced = client.completions.create(**request, logit_bias={"77": 100}, extra_body=ids).choices[0]
    assert forced.token_ids == [77] * 6
    ended = client.completions.create(
        **request, logit_bias={"77": 100}, extra_body={"stop_token_ids": [77], "min_tokens": 3, **ids}
    ).choices[0]
    assert ended.finish_reason == "stop"
    assert len(ended.token_ids) == 4
    assert ended.stop_reason == 77
    greedy = client.completions.create(**request, extra_body=ids).choices[0].token_ids
    top1 = client.completions.create(**{**request, "temperature": 2}, extra_body={"top_k": 1, **ids}).choices[0]
    assert top1.token_ids == greedy
    other = client.completions.create(
        **request, logit_bias={"77": 20}, presence_penalty=2, frequency_penalty=2, extra_body=ids
    ).choices[0]
    assert other.token_ids != [77] * 6


def test_end_of_text_ends_unless_ignored(server):
    client = server.openai()
    request = {"model": "tiny", "prompt": [50, 51], "max_tokens": 4, "temperature": 0, "logit_bias": {"0": 100}}
    ended = client.completions.create(**request)
    assert (ended.choices[0].text, ended.choices[0].finish_reason) == ("", "stop")
    going_on = client.completions.create(**request, extra_body={"ignore_eos": True})
    assert going_on.usage.completion_tokens == 4


def test_many_clients_at_once_get_their_own_answers(server):
    prompts = [[7 + i, 9 + i, 11 + 2 * i] for i in range(12)]
    alone = [
        server.openai().completions.create(model="tiny", prompt=prompt, max_tokens=16, temperature=0).choices[0].text
        for prompt in prompts
    ]

    async def all_at_once():
        async with server.async_openai() as client:

            async def one(prompt):
                stream = await client.completions.create(
                    model="tiny", prompt=prompt, max_tokens=16, temperature=0, stream=True
                )
                return "".join([choice.text async for chunk in stream for choice in chunk.choices])

            return await asyncio.gather(*(one(prompt) for prompt in prompts))

    assert asyncio.run(all_at_once()) == alone
    assert not server.busy()


def test_a_repeated_prompt_is_read_from_the_cache(server):
    client = server.openai()
    prompt = list(range(200, 250))
    first = client.completions.create(model="tiny", prompt=prompt, max_tokens=4, temperature=0)
    again = client.completions.create(model="tiny", prompt=prompt, max_tokens=4, temperature=0)
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert again.usage.prompt_tokens_details.cached_tokens >= 32
    assert again.choices[0].text == first.choices[0].text


def test_json_follows_the_schema(server):
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    answer = server.openai().completions.create(
        model="tiny",
        prompt="give",
        max_tokens=40,
        seed=3,
        extra_body={"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
    )
    assert json.loads(answer.choices[0].text)["a"] in (1, 2)


def test_without_max_tokens_the_answer_may_fill_the_context(server):
    prompt = list(range(50, 290))
    answer = server.openai().completions.create(
        model="tiny", prompt=prompt, temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.usage.total_tokens == server.engine.max_model_len == 256
    assert answer.choices[0].finish_reason == "length"


def test_the_models_own_sampling_defaults_are_used(tiny_checkpoint, tmp_path):
    copy = tmp_path / "with-defaults"
    copy.mkdir()
    for file in tiny_checkpoint(2).iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    defaults = {"do_sample": True, "temperature": 0.9, "top_k": 1}
    (copy / "generation_config.json").write_text(json.dumps(defaults))
    request = {"model": "default", "prompt": [5, 6, 7], "max_tokens": 12, "extra_body": {"return_token_ids": True}}
    with running_server(copy) as server:
        client = server.openai()
        by_default = [client.completions.create(**request, seed=seed).choices[0].token_ids for seed in (1, 2)]
        greedy = client.completions.create(**request, temperature=0).choices[0].token_ids
        request["extra_body"]["top_k"] = 0
        overridden = [client.completions.create(**request, seed=seed).choices[0].token_ids for seed in (1, 2)]
    assert by_default == [greedy, greedy]
    assert overridden[0] != overridden[1], "what the request says comes before the model's default"


def test_metrics_of_a_request_are_plausible(server):
    usage = server.openai().completions.create(model="tiny", prompt=[3], max_tokens=8, temperature=0).usage
    assert 0 < usage.metrics["ttft_ms"] < 60_000
    assert math.isfinite(usage.metrics["tokens_per_second"])


def test_scoring_the_end_of_a_prompt(server):
    """`logprob_start_len`: null before it, the same numbers from it on; what both prompts share is read once."""
    prompt = [5 + 3 * index % 400 for index in range(80)]
    body = {"prompt": prompt, "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0}
    with server.http() as client:
        whole = client.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]
        answer = client.post("/v1/completions", json={**body, "logprob_start_len": 70}).json()
        bad = client.post("/v1/completions", json={**body, "logprob_start_len": -1})
    part = answer["choices"][0]["logprobs"]
    assert part["token_logprobs"][:70] == [None] * 70
    assert part["token_logprobs"][70:] == pytest.approx(whole["token_logprobs"][70:], abs=1e-4)
    assert part["tokens"] == whole["tokens"]
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 64
    assert bad.status_code == 400
    assert "logprob_start_len" in bad.json()["error"]["message"]
