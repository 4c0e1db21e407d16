"""Schemathesis writes requests from `/openapi.json`, good and bad: no 5xx, and all answers are as declared there."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from tests.conftest import missing
from tests.serve.support import running_server

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.mark.slow
def test_requests_made_from_the_document(tiny_checkpoint):
    if importlib.util.find_spec("schemathesis") is None:
        missing("schemathesis")
    with running_server(tiny_checkpoint(2)) as server:
        run = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--checks", CHECKS]
        limits = ["--phases", "coverage,fuzzing", "--max-examples", "8", "--seed", "1", "--request-timeout", "60"]
        result = subprocess.run([*run, *limits], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-1000:]
        assert "10 passed" in result.stdout, "all operations were tested"
        assert not server.busy()
