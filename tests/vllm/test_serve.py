"""`hidden-decoding serve --engine vllm`: the real server, its answers with and without thinking, its page, its end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from tests.vllm.engine import CPU_BLOCK_ROWS

FORCED = {
    "<think>Hm.</think>Yes.": ("Hm.", "Yes."),
    "Just yes.": ("", "Just yes."),
    "<thin": ("", "<thin"),
}


@pytest.fixture(scope="module")
def server(checkpoint):
    """(base URL, lines printed) of a server; it must end with 0 after SIGTERM."""
    flags = ["--engine", "auto", "--port", "0", "--dtype", "float32", "--enforce-eager", "--served-model-name", "tiny"]
    command = [sys.executable, "-m", "hidden_decoding.cli.main", "serve", str(checkpoint(4)), "-q", *flags]
    process = subprocess.Popen(
        [*command, "--", "--block-size", str(CPU_BLOCK_ROWS // 4)],
        env={**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    try:
        while not lines or not lines[-1].startswith("curl "):
            line = process.stdout.readline()
            assert line, "vLLM did not start"
            lines.append(line.rstrip("\n"))
        [url] = [line.split()[-1] for line in lines if line.startswith("URL")]
        yield url.removesuffix("/v1"), lines
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()


def ask(url: str, text: str, stream: bool) -> tuple[str, str]:
    """(thinking, answer) when the model can say only `text`."""
    body = {"model": "default", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0}
    body |= {"structured_outputs": {"choice": [text]}, "stream": stream}
    data, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{url}/v1/chat/completions", data, kind), timeout=120
    ) as answer:
        if not stream:
            messages = [json.load(answer)["choices"][0]["message"]]
        else:
            events = [line[6:] for line in answer.read().decode().splitlines() if line.startswith("data: {")]
            messages = [choice["delta"] for event in events for choice in json.loads(event)["choices"]]
    return tuple("".join(message.get(field) or "" for message in messages) for field in ("reasoning", "content"))


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("text", FORCED)
def test_content_is_never_empty(server, text, stream):
    assert ask(server[0], text, stream) == FORCED[text]


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
