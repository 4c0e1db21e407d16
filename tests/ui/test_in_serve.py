"""The page at `/` of the local engine's server: public files, an API that wants the key."""

from __future__ import annotations

from starlette.testclient import TestClient

from hidden_decoding.engines.local.engine import LocalEngine
from hidden_decoding.serve.app import create_app
from hidden_decoding.serve.launch import make_state
from hidden_decoding.serve.settings import ServeConfig
from hidden_decoding.ui.page_files import local_page


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
