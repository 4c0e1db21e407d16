"""Clients that leave, a server that stops, and a command line that refuses what cannot work: as processes see it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from unittest.mock import MagicMock

import httpx
import pytest

from hidden_decoding.engines.local.outputs import Delta
from hidden_decoding.serve.generation import Generation, Job
from hidden_decoding.serve.settings import ServeConfig
from tests.serve.support import running_server, wait_until

LONG = {"prompt": [1, 2, 3], "max_tokens": 240, "ignore_eos": True, "temperature": 0}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def command(*words: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "hidden_decoding.cli.main", *words],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def start(checkpoint, *flags: str) -> tuple[subprocess.Popen, str, list[str]]:
    """A server process, its URL, and the lines it printed."""
    process = command("serve", str(checkpoint), "--port", "0", "--kv-cache-memory-bytes", "32MiB", *flags)
    lines = []
    while not lines or not lines[-1].startswith("curl "):
        line = process.stdout.readline()
        assert line, process.stderr.read()
        lines.append(line.rstrip("\n"))
    url = re.search(r"http://127\.0\.0\.1:\d+", lines[-1])[0]
    return process, url, lines


# ------------------------------------------------------------------------------------------------- clients that leave


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slots(tiny_checkpoint, stream):
    with running_server(tiny_checkpoint(2)) as server:
        step = server.engine.step
        server.engine.step = lambda: (time.sleep(0.02), step())[1]  # 240 steps take about five seconds
        request = json.dumps({**LONG, "stream": stream, "n": 2})
        head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json"
        with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as client:
            client.sendall(f"{head}\r\ncontent-length: {len(request)}\r\n\r\n{request}".encode())
            wait_until(lambda: server.engine.stats().num_running == 2)
            steps = server.engine.steps
        wait_until(lambda: not server.busy(), seconds=2)
        assert server.engine.steps - steps < 60, "the engine stopped long before the answers' end"
        answer = server.openai().completions.create(model="default", prompt=[5], max_tokens=2)
        assert answer.usage.completion_tokens == 2
        assert 'finished_reason="abort"' in httpx.get(f"{server.url}/metrics").text


def test_leaving_at_the_very_moment_a_token_comes_is_leaving():
    delta = Delta(request_id="r", token_ids=[1], finish_reason=None)

    async def engine(*_):
        yield delta
        await asyncio.sleep(60)

    async def leave_as_a_token_comes(turns: int) -> None:
        state = SimpleNamespace(
            draining=False,
            running=set(),
            most_sequences=8,
            settings=ServeConfig(),
            metrics=MagicMock(),
            async_engine=SimpleNamespace(is_healthy=True, stream=engine),
        )
        generation = Generation(state, [Job(token_ids=[1], params=None)])
        await generation.open(5)
        seen = asyncio.Event()

        async def read() -> None:
            async for _ in generation:
                seen.set()

        reader = asyncio.create_task(read())
        await seen.wait()
        for _ in range(3):  # the reader now waits for the next token
            await asyncio.sleep(0)
        generation._events.put_nowait((0, delta))
        for _ in range(turns):
            await asyncio.sleep(0)
        reader.cancel()
        await asyncio.wait({reader}, timeout=1)
        stopped = reader.cancelled()
        reader.cancel()
        await generation.close()
        assert stopped, f"the cancellation was lost, {turns} turns of the loop after the token"

    for turns in range(4):
        asyncio.run(leave_as_a_token_comes(turns))


def test_neighbours_of_a_client_that_leaves_are_not_touched(tiny_checkpoint):
    with running_server(tiny_checkpoint(2)) as server:
        client = server.openai()
        request = {"model": "default", "prompt": [9, 8, 7], "max_tokens": 60, "temperature": 0}
        alone = client.completions.create(**request).choices[0].text
        together: list[str] = []
        reader = threading.Thread(target=lambda: together.append(client.completions.create(**request).choices[0].text))
        with server.http() as http, http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as leaving:
            next(leaving.iter_text())
            reader.start()
        reader.join(30)
        assert together == [alone]
        wait_until(lambda: not server.busy())


# -------------------------------------------------------------------------------------------------- a server that stops


def test_a_signal_drains(tiny_checkpoint):
    process, url, lines = start(tiny_checkpoint(2), "--drain-seconds", "20", "--api-key", "k")
    try:
        assert any("n = 2" in line for line in lines)
        assert any(re.search(r"context .*256 tokens = 512 positions", line) for line in lines)
        assert any(re.search(r"KV budget .*tokens = .*positions", line) for line in lines)
        assert "k" not in re.findall(r"Bearer '\"(.*?)\"", lines[-1]), "the curl does not show the key"
        headers = {"authorization": "Bearer k"}
        with httpx.Client(base_url=url, headers=headers, timeout=30) as http:
            with http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as answer:
                pieces = answer.iter_text()
                text = next(pieces)
                process.send_signal(signal.SIGTERM)
                refused = wait_for_status(url, headers, 503)
                assert refused.json()["error"]["type"] == "service_unavailable_error"
                assert int(refused.headers["retry-after"]) >= 1
                text += "".join(pieces)
            assert text.endswith("data: [DONE]\n\n"), "what ran when the signal came is finished"
        assert process.wait(20) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()


def wait_for_status(url: str, headers: dict, status: int) -> httpx.Response:
    for _ in range(100):
        answer = httpx.post(f"{url}/v1/completions", json={"prompt": [1], "max_tokens": 1}, headers=headers)
        if answer.status_code == status:
            return answer
    raise AssertionError(f"never {status}, last {answer.status_code}")


def test_draining_ends_in_time_and_says_so(tiny_checkpoint):
    with running_server(tiny_checkpoint(2)) as server, server.http() as http:
        step = server.engine.step
        server.engine.step = lambda: (time.sleep(0.05), step())[1]
        answers: list[httpx.Response] = []
        ask = threading.Thread(target=lambda: answers.append(http.post("/v1/completions", json=LONG)))
        ask.start()
        wait_until(lambda: server.engine.stats().num_running == 1)
        asyncio.run_coroutine_threadsafe(server.state.drain(0.2), server.state.async_engine._loop).result(10)
        ask.join(10)
        assert answers[0].status_code == 503
        assert "stopping" in answers[0].json()["error"]["message"]
        assert http.get("/health").status_code == 503
        wait_until(lambda: not server.busy())


def test_the_printed_curl_works_and_an_interrupt_exits_at_once(tiny_checkpoint):
    process, url, lines = start(tiny_checkpoint(2))
    try:
        answer = subprocess.run(["bash", "-c", f"{lines[-1]} -s"], capture_output=True, text=True, check=True)
        assert json.loads(answer.stdout)["usage"]["completion_tokens"] >= 1
        assert httpx.get(f"{url}/health").json() == {"status": "ok"}
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert time.monotonic() - began < 5
    finally:
        process.kill()


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["/nowhere/at/all"], "not a directory"),
        (["MODEL", "--engine", "vllm"], "vllm is not installed"),
        (["MODEL", "--engine", "sglang"], "sglang is not installed"),
        (["MODEL", "--port", "99999"], "--port 99999"),
        (["MODEL", "--chat-template", "/nowhere.jinja"], "--chat-template"),
        (["MODEL", "--api-key", ""], "--api-key"),
        (["MODEL", "--max-model-len", "100000"], "256 tokens = 512 positions"),
        (["MODEL", "--kv-cache-memory-bytes", "100000GiB"], "are free"),
        (["MODEL", "--", "--tensor-parallel-size", "2"], "before the bare --"),
        (["MODEL", "--host", "999.1.1.1"], "--host"),
        (["MODEL", "--device", "mps"], "finds no such device"),
    ],
)
def test_one_clear_line_and_exit_code_2(tiny_checkpoint, flags, message):
    words = [str(tiny_checkpoint(2)) if word == "MODEL" else word for word in flags]
    process = command("serve", *words)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert message in errors
    assert "Traceback" not in errors
    assert len([line for line in errors.splitlines() if line.startswith("error: ")]) == 1


def test_a_port_in_use_is_refused_before_the_weights_are_read(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = command("serve", str(tmp_path), "--port", port)  # an empty directory: reading it would fail too
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert re.search(rf"error: cannot listen on 127\.0\.0\.1 port {port} \(.*in use\)", errors)


# -------------------------------------------------------------------------------------------------- the chat command


def test_chat_talks_to_a_server(tiny_checkpoint, tmp_path):
    saved = tmp_path / "talk.json"
    script = [
        "Hello there",
        "/set max_tokens 5",
        "/set temperature 0",
        "/system Be brief.",
        "And now?",
        f"/save {saved}",
        "/set temperature -4",
        "this fails",
        "/set temperature",
        "/nonsense",
        "/reset",
        "Again",
        "/quit",
        "never sent",
    ]
    with running_server(tiny_checkpoint(2), api_key=("k",)) as server:
        process = command("chat", "--base-url", f"{server.url}/v1", "--api-key", "k")
        out, info = process.communicate("\n".join(["/set max_tokens 8", *script]), timeout=60)
    assert process.returncode == 0, info
    talk = json.loads(saved.read_text())
    assert [message["role"] for message in talk["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    assert talk["options"] == {"max_tokens": 5, "temperature": 0}
    for message in talk["messages"][2::2]:
        assert message["content"].strip() in out
    assert len(re.findall(r"\[\d+ tokens, [\d.]+ tokens/s, first after \d+ ms\]", info)) == 3
    assert "temperature is -4" in info, info
    assert "/nonsense is not a command" in info
    assert "never sent" not in info


def test_chat_shows_thinking_apart_from_the_answer(scripted):
    process = command("chat", "--base-url", f"{scripted.url}/v1", "-q")
    out, info = process.communicate(
        '/set chat_template_kwargs {"script": "think"}\n/set temperature 0\nHi\n', timeout=60
    )
    assert out.strip() == "It is 4!"
    assert "Let me see." in info


def test_chat_without_a_server_says_how_to_start_one():
    process = command("chat", "--base-url", "http://127.0.0.1:9/v1")
    _, errors = process.communicate("", timeout=60)
    assert process.returncode == 2
    assert "hidden-decoding serve MODEL" in errors
