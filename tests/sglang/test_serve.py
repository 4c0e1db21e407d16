"""`hidden-decoding serve --engine sglang`: the real server, its answers, its page on the port beside it, its end."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request

import pytest

from hidden_decoding.serve.engines.sglang_server import PAGE_PORT
from tests.engine_server import chat, served
from tests.sglang.engine import SLOTS

TEXTS = ["<think>Hm.</think>Yes.", "Just yes.", "<thin"]
ORIGINAL = ["--context-length", "512", "--max-running-requests", "4", "--chunked-prefill-size", "-1"]
SMALL = ["--disable-cuda-graph", "--sampling-backend", "pytorch", "--mem-fraction-static", "0.1"]


@pytest.fixture(scope="module")
def server(tiny_checkpoint):
    flags = ["--engine", "auto", "--dtype", "float32", "--served-model-name", "tiny"]
    with served(tiny_checkpoint(4), [*flags, "--", *ORIGINAL, *SMALL, "--max-total-tokens", str(SLOTS)]) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("text", TEXTS)
def test_content_is_all_the_text(server, text, stream):
    """No reasoning parser is set: what looks like thinking stays in `content`, so it is never empty."""
    assert chat(server[0], stream, regex=re.escape(text)) == ("", text)


@pytest.mark.slow
def test_it_says_what_runs_and_the_curl_works(server):
    lines = server[1]
    shown = "\n".join(lines)
    assert "sglang is installed and can run here" in shown
    assert "--context-length 512 counts positions; at n = 4 streams SGLang gets 128 tokens" in shown
    assert "128 tokens = 512 positions" in shown
    done = subprocess.run(["bash", "-c", f"{lines[-1]} -s"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"]


@pytest.mark.slow
def test_the_page_is_beside_it(server):
    [page] = [line.split()[-1] for line in server[1] if line.startswith("page")]
    assert page.endswith(f":{PAGE_PORT}/")
    with urllib.request.urlopen(f"{page}v1/models", timeout=30) as answer:
        assert json.load(answer)["data"][0]["id"] == "tiny"
