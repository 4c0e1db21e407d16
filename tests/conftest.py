"""Fixtures shared by all tests: quiet threads, tiny checkpoints, and where real data lies."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if os.environ.get("HIDDEN_DECODING_TEST_ENGINE") == "sglang":
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, and torch imports it

import hypothesis
import pytest
import torch

torch.set_num_threads(min(2, torch.get_num_threads()))

# Speed is never asserted: a busy machine must not fail a property.
hypothesis.settings.register_profile("project", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("project")

from tests.packaging.built import Built, build, environment_with  # noqa: E402
from tests.support import save_tiny_checkpoint  # noqa: E402

# An engine's tests run in an environment of its own (make test-vllm), never together with the others; so do kernels
# (make test-kernels), as Triton's interpreter must be asked for before Triton is imported.
collect_ignore = [
    engine for engine in ("vllm", "sglang", "kernels") if os.environ.get("HIDDEN_DECODING_TEST_ENGINE") != engine
]
if os.environ.get("HIDDEN_DECODING_TEST_CONTAINER") != "1":  # make test-container: needs root, takes minutes
    collect_ignore.append("container/test_cpu_image.py")


def missing(what: str) -> None:
    """Skips loudly, or fails where CI says that everything must be present."""
    if os.environ.get("HIDDEN_DECODING_REQUIRE_ALL") == "1":
        pytest.fail(f"{what} is missing, and HIDDEN_DECODING_REQUIRE_ALL=1 allows no skip")
    pytest.skip(f"{what} is missing")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real text, benchmark files and tokenizers (`HIDDEN_DECODING_DATA`)."""
    path = Path(os.environ.get("HIDDEN_DECODING_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not path.is_dir():
        missing("the directory of real data (HIDDEN_DECODING_DATA)")
    return path


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """`tiny_checkpoint(n, positions="contiguous")` -> a checkpoint directory, made once per session."""
    made: dict[tuple, Path] = {}

    def make(num_streams: int, positions: str = "contiguous") -> Path:
        key = (num_streams, positions)
        if key not in made:
            made[key] = save_tiny_checkpoint(tmp_path_factory.mktemp(f"n{num_streams}-{positions}"), *key)
        return made[key]

    return make


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Built:
    """The source archive and the wheel, made once."""
    return build(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="session")
def installed(built, tmp_path_factory) -> Path:
    """Commands of an environment with the wheel and its dependencies, out of reach of the checkout."""
    return environment_with(built.wheel, tmp_path_factory.mktemp("installed") / "env", dependencies=True)
