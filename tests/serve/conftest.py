"""Servers that many tests share; a test that changes a server makes its own."""

from __future__ import annotations

import pytest

from tests.serve.support import running_server, save_scripted_checkpoint
from tests.support import BruteForce, tiny_model


@pytest.fixture(scope="session")
def server(tiny_checkpoint):
    """n = 2, random weights, ChatML tokenizer."""
    with running_server(tiny_checkpoint(2), served_model_name=("tiny", "tiny-alias")) as running:
        yield running


@pytest.fixture(scope="session")
def brute():
    """The reference for `server`."""
    return BruteForce(tiny_model(2))


@pytest.fixture(scope="session")
def scripted_checkpoint(tmp_path_factory):
    return save_scripted_checkpoint(tmp_path_factory.mktemp("scripted"))


@pytest.fixture(scope="session")
def scripted(scripted_checkpoint):
    """A server whose answers are the texts of `tests.serve.support.SCRIPTS`."""
    with running_server(scripted_checkpoint) as running:
        yield running
