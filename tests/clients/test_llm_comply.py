"""llm-comply checks answers against OpenAI's own schema and its rules, on a model that says what the checks ask for."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.clients.scripted import save_obedient_checkpoint
from tests.conftest import missing
from tests.serve.support import running_server

# What this server does otherwise, on purpose: it reads no images, and a request may leave `model` out.
ON_PURPOSE = {
    "chat-image-input": "HTTP 400 (expected [200])",
    "chat-error-handling": "HTTP 200 (expected [400, 422])",
}
SKIPPED = {"chat-reasoning-summary"}  # llm-comply itself runs it for OpenAI's own reasoning models only


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    if importlib.util.find_spec("llm_comply") is None:
        missing("llm-comply (pip install llm-comply)")
    checkpoint = save_obedient_checkpoint(tmp_path_factory.mktemp("obedient"))
    with running_server(checkpoint, served_model_name=("tiny",)) as server:
        command = [sys.executable, "-c", "import sys; from llm_comply.cli import main; sys.exit(main())"]
        flags = ["-u", f"{server.url}/v1", "-k", "none", "-m", "tiny", "--format", "openai-chat", "--json"]
        result = subprocess.run([*command, *flags], capture_output=True, text=True, check=False)
        assert result.stdout, result.stderr
        assert not server.busy()
        return {found["id"]: found for found in json.loads(result.stdout)["results"]}


def test_everything_passes_but_what_differs_on_purpose(results):
    failed = {name: found["errors"] for name, found in results.items() if found["status"] == "failed"}
    assert set(failed) == set(ON_PURPOSE), failed
    for name, reason in ON_PURPOSE.items():
        assert reason in failed[name]


def test_all_of_its_checks_ran(results):
    assert {name for name, found in results.items() if found["status"] == "skipped"} == SKIPPED
    assert {name for name, found in results.items() if found["status"] == "passed"} == {
        "chat-basic-response",
        "chat-system-prompt",
        "chat-multi-turn",
        "chat-tool-calling",
        "chat-streaming-response",
        "chat-streaming-usage",
    }
