"""One real server that all clients of this directory talk to, and the brute-force reference for its answers."""

from __future__ import annotations

import pytest

from tests.serve.support import running_server
from tests.support import BruteForce, tiny_model


@pytest.fixture(scope="session")
def checkpoint(tiny_checkpoint):
    """n = 2, random weights, a tokenizer with ChatML."""
    return tiny_checkpoint(2)


@pytest.fixture(scope="session")
def server(checkpoint):
    with running_server(checkpoint, served_model_name=("tiny",)) as running:
        yield running


@pytest.fixture(scope="session")
def brute():
    """The reference for `server`."""
    return BruteForce(tiny_model(2))
