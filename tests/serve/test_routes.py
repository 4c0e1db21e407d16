"""The small routes, the Prometheus page, and an OpenAPI document that is true."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

import hidden_decoding
from tests.serve.bad_inputs import CHAT, COMPLETIONS, GOOD
from tests.serve.support import running_server
from tests.support import tiny_tokenizer

TEXTS = ["plain words", "def f(x):\n\treturn x  # 你好 🙂 é", "<|im_start|>user", "\x00\x7f", ""]


@pytest.mark.parametrize("text", TEXTS)
def test_tokenize_and_detokenize_are_inverse(server, text):
    with server.http() as http:
        body = {"prompt": text, "return_token_strs": True}
        answer = http.post("/tokenize", json=body).raise_for_status().json()
        assert answer["tokens"] == tiny_tokenizer().encode(text)
        assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
        assert answer["max_model_len"] == 256
        assert http.post("/detokenize", json={"tokens": answer["tokens"]}).json() == {"prompt": text}


@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_tokens_are_the_bytes_of_the_text(server, text):
    ids = tiny_tokenizer().encode(text)
    assert b"".join(server.state.token_texts.raw(token_id) for token_id in ids) == text.encode()


def test_every_token_has_a_name_of_its_own(server):
    names = [server.state.token_texts.text(token_id) for token_id in range(len(tiny_tokenizer()))]
    assert len(set(names)) == len(names)


def test_tokenize_renders_messages(server):
    with server.http() as http:
        tokens = http.post("/tokenize", json={"messages": GOOD[CHAT]["messages"]}).json()["tokens"]
        text = http.post("/detokenize", json={"tokens": tokens}).json()["prompt"]
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_models_health_version_and_root(server, tiny_checkpoint):
    client = server.openai()
    assert [model.id for model in client.models.list()] == ["tiny", "tiny-alias"]
    card = client.models.retrieve("tiny-alias")
    assert (card.model_extra["max_model_len"], card.model_extra["streams"]) == (256, 2)
    with server.http() as http:
        assert http.get("/health").json() == {"status": "ok"}
        assert http.get("/version").json() == {"version": hidden_decoding.__version__}
        pointer = http.get("/").json()
        assert pointer["name"] == "hidden-decoding"
        assert "/v1/chat/completions" in pointer["routes"]
        for name in (None, "default", "tiny", "tiny-alias", str(tiny_checkpoint(2))):
            answer = http.post(COMPLETIONS, json={**GOOD[COMPLETIONS], **({"model": name} if name else {})})
            assert answer.status_code == 200
            # A directory is accepted as the name of its model, but never shown.
            assert answer.json()["model"] == ("tiny-alias" if name == "tiny-alias" else "tiny")


def test_a_directory_served_without_a_name_is_called_by_its_last_part(tiny_checkpoint):
    with running_server(tiny_checkpoint(1)) as server, server.http() as http:
        assert http.get("/v1/models").json()["data"][0]["id"] == tiny_checkpoint(1).name


def test_metrics_count_tokens_under_vllms_names(tiny_checkpoint):
    with running_server(tiny_checkpoint(4)) as server, server.http() as http:
        for _ in range(3):
            server.openai().completions.create(model="default", prompt=list(range(40)), max_tokens=5, temperature=0)
        text = http.get("/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    values = {sample.name: sample.value for family in families.values() for sample in family.samples}
    assert values["vllm:prompt_tokens_total"] == 120
    assert values["vllm:generation_tokens_total"] <= 15
    assert values["vllm:time_to_first_token_seconds_count"] == 3
    assert values["vllm:e2e_request_latency_seconds_count"] == 3
    assert values["vllm:inter_token_latency_seconds_count"] == values["vllm:generation_tokens_total"] - 3
    assert values["vllm:num_requests_running"] == values["vllm:num_requests_waiting"] == 0
    assert values["vllm:kv_cache_usage_perc"] == 0
    assert 0 < values["vllm:prefix_cache_hits_total"] < values["vllm:prefix_cache_queries_total"]
    finished = families["vllm:request_success"].samples
    assert sum(sample.value for sample in finished if sample.name.endswith("_total")) == 3


def test_openapi_declares_requests_answers_and_errors(server):
    with server.http() as http:
        document = http.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert "422" not in operation["responses"], path
            for status, answer in operation["responses"].items():
                if status != "200":
                    reference = answer["content"]["application/json"]["schema"]["$ref"]
                    assert reference.endswith("/ErrorResponse")
    assert set(schemas["ErrorDetail"]["properties"]) == {"message", "type", "param", "code"}
    assert {"prompt", "echo", "logprobs", "seed"} <= set(schemas["CompletionRequest"]["properties"])
    chat = document["paths"][CHAT]["post"]["responses"]["200"]["content"]
    assert set(chat) == {"application/json", "text/event-stream"}
    assert chat["application/json"]["schema"]["$ref"].endswith("/ChatCompletion")


@pytest.mark.parametrize("origins", [(), ("https://page.example",)])
def test_browsers_are_let_in_only_when_asked_for(tiny_checkpoint, origins):
    ask = {"origin": "https://page.example", "access-control-request-method": "POST"}
    with running_server(tiny_checkpoint(1), allowed_origins=origins, api_key=("k",)) as server:
        preflight = httpx.options(f"{server.url}{CHAT}", headers=ask)
        refused = httpx.get(f"{server.url}/v1/models", headers=ask)
    assert (preflight.headers.get("access-control-allow-origin") is not None) == bool(origins)
    assert refused.status_code == 401
    assert (refused.headers.get("access-control-allow-origin") is not None) == bool(origins)


def test_a_checkpoint_without_a_tokenizer_takes_token_ids(tiny_checkpoint, tmp_path):
    bare = tmp_path / "no-tokenizer"
    bare.mkdir()
    for file in tiny_checkpoint(2).iterdir():
        if file.name in ("config.json", "generation_config.json", "model.safetensors"):
            (bare / file.name).write_bytes(file.read_bytes())
    with running_server(bare) as server, server.http() as http:
        body = {"prompt": [1, 2, 3], "max_tokens": 4, "temperature": 0, "return_token_ids": True, "logprobs": 1}
        choice = http.post(COMPLETIONS, json=body).raise_for_status().json()["choices"][0]
        assert choice["text"] == ""
        assert choice["logprobs"]["tokens"] == [f"token_id:{token}" for token in choice["token_ids"]]
        for route in (COMPLETIONS, CHAT, "/tokenize"):
            answer = http.post(route, json={**GOOD[route], **({"prompt": "text"} if route == COMPLETIONS else {})})
            assert answer.status_code == 400
            assert "tokenizer" in answer.text or "template" in answer.text
