"""The command-line tool `llm`, set up by its file of extra OpenAI models as a user would."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import yaml

from tests.conftest import missing
from tests.equivalence.tolerances import FP32_LOGITS, TIE_FACTOR
from tests.support import tiny_tokenizer

pytestmark = pytest.mark.slow
MAX_TOKENS = 8


@pytest.fixture(scope="module")
def llm(server, tmp_path_factory):
    """`llm(*words)` -> what the tool printed."""
    if importlib.util.find_spec("llm") is None:
        missing("the command-line tool llm (pip install llm)")
    home = tmp_path_factory.mktemp("llm")
    common = {"model_name": "tiny", "api_base": f"{server.url}/v1"}
    models = [
        {"model_id": "tiny", "supports_schema": True, "supports_tools": True, **common},
        {"model_id": "tiny-completion", "completion": True, **common},
        {"model_id": "absent", **common, "model_name": "absent"},
    ]
    (home / "extra-openai-models.yaml").write_text(yaml.safe_dump(models), encoding="utf-8")
    environment = {**os.environ, "LLM_USER_PATH": str(home)}
    environment.pop("OPENAI_API_KEY", None)

    def run(*words: str, code: int = 0) -> str:
        # Not by its script, which need not be on the path.
        command = [sys.executable, "-c", "from llm.cli import cli; cli()", *words]
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        assert result.returncode == code, result.stderr
        return result.stdout if code == 0 else result.stderr

    return run


def greedy_text(brute, ids: list[int]) -> str:
    answer, gaps = brute.greedy(ids, MAX_TOKENS)
    assert min(gaps) > TIE_FACTOR * FP32_LOGITS
    return tiny_tokenizer().decode(answer, skip_special_tokens=True)


@pytest.mark.parametrize("how", [[], ["--no-stream"]], ids=["streamed", "whole"])
def test_a_chat(llm, server, brute, how):
    with server.http() as http:
        ids = http.post("/tokenize", json={"messages": [{"role": "user", "content": "Hello"}]}).json()["tokens"]
    words = ["-m", "tiny", "Hello", "-o", "temperature", "0", "-o", "max_tokens", str(MAX_TOKENS), "--key", "none"]
    assert llm(*words, *how).rstrip("\n") == greedy_text(brute, ids).rstrip("\n")


def test_a_completion(llm, brute):
    words = ["-m", "tiny-completion", "Hello", "-o", "temperature", "0", "-o", "max_tokens", str(MAX_TOKENS)]
    expected = greedy_text(brute, tiny_tokenizer().encode("Hello"))
    assert llm(*words, "--key", "none").rstrip("\n") == expected.rstrip("\n")


def test_a_schema(llm):
    """`llm` asks with `response_format`; a list of two words ends well within the limit."""
    schema = json.dumps({"type": "object", "properties": {"word": {"enum": ["red", "blue"]}}, "required": ["word"],
                         "additionalProperties": False})  # fmt: skip
    answer = llm("-m", "tiny", "A colour", "--schema", schema, "-o", "temperature", "0", "-o", "max_tokens", "100",
                 "--key", "none")  # fmt: skip
    assert json.loads(answer)["word"] in ("red", "blue")


def test_what_was_used_is_in_its_log(llm):
    llm("-m", "tiny", "Hello again", "-o", "max_tokens", "5", "-o", "temperature", "0", "--key", "none")
    entry = json.loads(llm("logs", "-n", "1", "--json"))[0]
    assert entry["prompt"] == "Hello again"
    assert entry["output_tokens"] == 5
    assert entry["input_tokens"] > 5


def test_an_error_is_shown_as_the_server_words_it(llm):
    said = llm("-m", "absent", "Hello", "--key", "none", code=1)
    assert "does not exist here; this server has tiny" in said
