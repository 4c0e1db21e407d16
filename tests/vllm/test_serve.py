"""`hidden-decoding serve --engine vllm`: the real server, its answers with and without thinking, its page, its end."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request

import pytest

from tests.engine_server import chat, served
from tests.vllm.engine import CPU_BLOCK_ROWS

FORCED = {
    "<think>Hm.</think>Yes.": ("Hm.", "Yes."),
    "Just yes.": ("", "Just yes."),
    "<thin": ("", "<thin"),
}


@pytest.fixture(scope="module")
def server(checkpoint):
    flags = ["--engine", "auto", "--dtype", "float32", "--enforce-eager", "--served-model-name", "tiny"]
    flags += ["--", "--block-size", str(CPU_BLOCK_ROWS // 4)]
    with served(checkpoint(4), flags, {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("text", FORCED)
def test_content_is_never_empty(server, text, stream):
    assert chat(server[0], stream, structured_outputs={"choice": [text]}) == FORCED[text]


@pytest.mark.slow
def test_it_says_what_runs_and_the_curl_works(server):
    url, lines = server
    shown = "\n".join(lines)
    assert "engine     vllm (vllm is installed and can run here)" in shown
    assert "256 tokens = 1,024 positions" in shown
    assert f"{url}/plugins/hidden_decoding/" in shown
    done = subprocess.run(["bash", "-c", f"{lines[-1]} -s"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"]


@pytest.mark.slow
def test_the_page_is_mounted(server):
    with pytest.raises(urllib.error.HTTPError, match="404") as error:
        urllib.request.urlopen(f"{server[0]}/plugins/hidden_decoding/no-such-file", timeout=30)
    assert "no such file in the chat page" in error.value.read().decode()
