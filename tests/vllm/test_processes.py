"""What needs processes of its own: two tensor-parallel ranks, and the OpenAI server."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.engine_suite import NEW, prompts
from tests.equivalence.tolerances import FP32_LOGITS
from tests.support import assert_same_greedy
from tests.vllm.engine import CPU_BLOCK_ROWS, expected_greedy

ROOT = Path(__file__).parents[2]

TENSOR_PARALLEL = """
import sys
from tests.engine_suite import prompts
from tests.vllm.engine import assert_all_match, started

if __name__ == "__main__":
    with started(sys.argv[1], 4, tensor_parallel_size=2, max_num_batched_tokens=29) as llm:
        assert_all_match(llm, 4, "linear", prompts(8, seed=95))
        print("all equal on", llm.llm_engine.vllm_config.parallel_config.world_size, "ranks")
"""


@pytest.mark.slow
def test_two_tensor_parallel_ranks(checkpoint, tmp_path):
    script = tmp_path / "two_ranks.py"
    script.write_text(TENSOR_PARALLEL)
    done = subprocess.run(
        [sys.executable, str(script), str(checkpoint(4, "linear"))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert "all equal on 2 ranks" in done.stdout, done.stdout[-2000:] + done.stderr[-4000:]


@contextlib.contextmanager
def served(directory, log_path, *flags):
    """The base URL of vLLM's own server, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(directory), "--port"]
    with log_path.open("w") as log:
        process = subprocess.Popen([*command, str(port), "--host", "127.0.0.1", *flags], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 300
            while True:
                with contextlib.suppress(urllib.error.URLError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                    break
                assert process.poll() is None, log_path.read_text()[-4000:]
                assert time.monotonic() < deadline, "not ready in 300 s: " + log_path.read_text()[-4000:]
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=60)


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_openai_server(checkpoint, tmp_path):
    """Unmodified `vllm serve`, a served name and `default`: greedy tokens, usage in tokens, the context in tokens."""
    n, directory = 4, checkpoint(4)
    names, limits = ["--served-model-name", "tiny", "default"], ["--dtype", "float32", "--enforce-eager"]
    block = ["--block-size", str(CPU_BLOCK_ROWS // n)]
    with served(directory, tmp_path / "log", *names, *limits, *block) as url:
        with urllib.request.urlopen(f"{url}/v1/models", timeout=60) as answer:
            models = json.load(answer)["data"]
        assert {model["id"]: model["max_model_len"] for model in models} == {"tiny": 256, "default": 256}
        [ids] = prompts(1, seed=96)
        options = {"temperature": 0, "max_tokens": NEW, "ignore_eos": True, "return_token_ids": True}
        answer = post(f"{url}/v1/completions", {"model": "tiny", "prompt": ids, **options})
        expected, gaps = expected_greedy(n, "contiguous", tuple(ids), NEW)
        assert_same_greedy(answer["choices"][0]["token_ids"], expected, gaps, FP32_LOGITS)
        assert answer["usage"]["prompt_tokens"] == len(ids)
        assert answer["usage"]["completion_tokens"] == NEW
        chat = {"model": "default", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
        assert post(f"{url}/v1/chat/completions", chat)["choices"][0]["message"]["content"]
    log = (tmp_path / "log").read_text()
    assert "the context is 256 tokens = 1024 positions" in log
    assert "at most 512 tokens = 2048 positions in one step" in log
