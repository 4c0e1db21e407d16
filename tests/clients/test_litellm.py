"""litellm, in an environment of its own (`make test` makes it): it needs an openai package older than ours."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.equivalence.tolerances import FP32_LOGITS, TIE_FACTOR
from tests.support import tiny_tokenizer

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def called(server):
    """What `litellm_calls.py` printed."""
    python = ROOT / ".venv-litellm" / "bin" / "python"
    if not python.is_file():
        missing("litellm's environment (make .venv-litellm/.installed)")
    # Its table of prices is part of the package; nothing is fetched.
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
    command = [str(python), str(Path(__file__).with_name("litellm_calls.py")), f"{server.url}/v1"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_every_way_of_asking_gives_the_greedy_answer(called, server, brute):
    tokenizer = tiny_tokenizer()
    with server.http() as http:
        ids = http.post("/tokenize", json={"messages": [{"role": "user", "content": "Hello"}]}).json()["tokens"]
    for prompt, answers in (
        (ids, [called["whole"], called["streamed"], called["later"], called["hosted"]]),
        (tokenizer.encode("Hello"), [called["text"]]),
    ):
        tokens, gaps = brute.greedy(prompt, 8)
        assert min(gaps) > TIE_FACTOR * FP32_LOGITS
        assert set(answers) == {tokenizer.decode(tokens, skip_special_tokens=True)}
    assert called["usage"] == [len(ids), 8]
    assert called["streamed_usage"] == 8
    assert called["finish_reason"] == "length"


def test_refusals_become_its_own_exceptions(called):
    assert called["errors"] == ["BadRequestError", "NotFoundError", "ContextWindowExceededError"]
