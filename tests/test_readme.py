"""Runs what the README tells people to run, with small local checkpoints in place of hub ids.

Each code block carries a comment `<!-- run: KIND -->` that says how; a block without one fails. Only these change: hub
ids become directories, `make demo` its quick form, training lasts 2 steps, a server gets a free port and is stopped.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.support import save_tiny_checkpoint

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?:<!-- run: (.*?) -->\n)?```(bash|python)\n(.*?)```", README, flags=re.DOTALL)
HUB_IDS = {"tencent/Sequential-Hidden-Decoding-8B-n8-Instruct": 8, "Qwen/Qwen3-0.6B-Base": 1}


def blocks(kind: str) -> list[str]:
    return [code for mark, _, code in BLOCKS if mark == kind]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a small checkpoint under each hub id's last name, and a text to train on."""
    directory = tmp_path_factory.mktemp("readme")
    for hub_id, num_streams in HUB_IDS.items():
        save_tiny_checkpoint(directory / hub_id.rpartition("/")[2], num_streams)
    (directory / "my-texts").mkdir()
    for name, words in (("one", "The quick brown fox jumps over the lazy dog. "), ("two", "A cat sat on a mat. ")):
        (directory / "my-texts" / f"{name}.txt").write_text(words * 200)
    return directory


def local(code: str) -> str:
    for hub_id in HUB_IDS:
        code = code.replace(hub_id, "./" + hub_id.rpartition("/")[2])
    return code


def environment() -> dict[str, str]:
    binaries = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}


def run(command: list[str], place: Path) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        command, cwd=place, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, f"{shlex.join(command)}\n{result.stdout}\n{result.stderr}"
    return result


def test_every_block_says_how_it_is_run():
    kinds = {mark for mark, _, _ in BLOCKS}
    known = {"demo", "serve", "python", "inspect", "upcycle", "no, this is the test suite itself"}
    assert kinds == known


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks(code, place):
    assert "print(" not in code or run([sys.executable, "-c", local(code)], place).stdout.strip()
    run([sys.executable, "-c", local(code)], place)


@pytest.mark.parametrize("code", blocks("inspect"))
def test_inspect(code, place):
    assert "8 positions" in run(shlex.split(local(code)), place).stdout


def test_upcycle_train_generate(place):
    [code] = blocks("upcycle")
    code = local(code).replace("--steps 1000", "--steps 2 --tokens-per-sequence 32 --sequences-per-step 2")
    lines = code.strip().splitlines()
    assert len(lines) == 3
    for line in lines:
        result = run([*shlex.split(line), *(["--max-tokens", "5"] if " generate " in line else [])], place)
    assert result.stdout


def test_serve(place):
    [code] = blocks("serve")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*shlex.split(local(code)), "--port", str(port)]
    server = subprocess.Popen(command, cwd=place, env=environment(), stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    break
            except httpx.TransportError:
                assert server.poll() is None, "the server stopped"
            time.sleep(0.1)
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60).json()
        assert answer["usage"]["completion_tokens"] >= 1
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


@pytest.mark.timeout(900)
def test_demo(place):
    [code] = blocks("demo")
    assert code.strip() == "make demo"
    assert "$(BIN)/hidden-decoding demo" in (ROOT / "Makefile").read_text()
    result = subprocess.run(
        ["hidden-decoding", "demo", "--quick", "--out", "demo-out"],
        cwd=place,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "bits/byte" in result.stdout
    assert list((place / "demo-out").rglob("*.png"))
