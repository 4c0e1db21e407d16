"""The page at `/` of the local engine's server: public files, an API that wants the key."""

from __future__ import annotations

from urllib.parse import urljoin

import pytest
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from hidden_decoding.engines.local.engine import LocalEngine
from hidden_decoding.serve.app import create_app
from hidden_decoding.serve.launch import make_state
from hidden_decoding.serve.settings import ServeConfig
from hidden_decoding.ui.page_files import local_page
from hidden_decoding.ui.vllm_page import ChatPage


def test_the_page_is_public_and_the_api_is_not(tiny_checkpoint):
    engine = LocalEngine(tiny_checkpoint(2), kv_cache_memory_bytes="16MiB")
    state = make_state(engine, ServeConfig(api_key=("k",)), model="tiny")
    with TestClient(create_app(state, local_page)) as http:
        page = http.get("/", headers={"accept": "text/html"})
        assert "<title>Hidden Decoding" in page.text
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert http.get("/app.js").headers["content-type"].startswith("text/javascript")
        assert http.get("/config.json").json()["apis"] == [{"name": "server", "path": "v1"}]
        assert http.get("/v1/models").status_code == 401
        key = {"authorization": "Bearer k"}
        assert http.get("/v1/models", headers=key).status_code == 200
        assert http.get("/", headers=key).json()["name"] == "hidden-decoding"


@pytest.fixture(scope="module")
def vllm_like():
    """A server as vLLM's with our endpoint plugin: its own routes, and ours."""
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat(request: Request):
        return {"got": await request.json()}

    ChatPage().attach_router(app)
    with TestClient(app) as http:
        yield http


def test_the_page_inside_vllm_finds_the_api_beside_it(vllm_like):
    root = "/plugins/hidden_decoding"
    page = vllm_like.get(f"{root}/")
    assert "<title>Hidden Decoding" in page.text
    assert "default-src 'self'" in page.headers["content-security-policy"]
    (api,) = vllm_like.get(f"{root}/config.json").json()["apis"]
    assert urljoin(f"http://host{root}/", api["path"]) == "http://host/v1"
    assert vllm_like.get(f"{root}/views/message.js").headers["content-type"].startswith("text/javascript")
    assert vllm_like.get(f"{root}/../secret").status_code == 404


def test_vllm_refuses_the_stream_lens(vllm_like):
    path = "/v1/chat/completions"
    for lens in (None, False):
        body = {"messages": ["stream_lens"], "stream_lens": lens}
        assert vllm_like.post(path, json=body).json() == {"got": body}
    refused = vllm_like.post(path, json={"messages": [], "stream_lens": True})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "stream_lens"
    assert "local engine" in refused.json()["error"]["message"]
