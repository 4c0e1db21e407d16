"""docs/bad-inputs.md says what the server says today."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("generate_bad_inputs", ROOT / "docs" / "generate_bad_inputs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_server_answers(generator, server):
    with server.http() as http:
        now = generator.page(http)
    assert generator.PAGE.read_text(encoding="utf-8") == now, "run: python docs/generate_bad_inputs.py"
    assert now.count("\n| ") == len(generator.BAD_INPUTS) + 4, "a row for each bad input, and the heads"
    assert "/root" not in now


def test_rows_stay_in_their_cells(generator):
    assert generator.cell("a|b\nc <d>") == "a\\|b c &lt;d>"
    assert generator.shortened("x" * 60) == "x" * 60
    assert generator.shortened("x" * 500).endswith("… (500 characters)")
