"""Runs only in vLLM's own environment: `make test-vllm`. Engines live in this process, one at a time, on the CPU."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

CACHE = tempfile.TemporaryDirectory(prefix="vllm-cache-")
os.environ.update(
    VLLM_CACHE_ROOT=CACHE.name,  # nothing compiled by another version of this code
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_LOGGING_LEVEL="INFO",
    VLLM_NO_USAGE_STATS="1",
    KMP_BLOCKTIME="0",  # idle threads sleep, so that a busy machine stays usable
    OMP_NUM_THREADS="1",
)

import pytest  # noqa: E402

from tests.support import plain_qwen3, save_tiny_checkpoint, tiny_tokenizer  # noqa: E402
from tests.vllm.engine import SHAPE, model_of  # noqa: E402


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """`checkpoint(n, scheme)` -> a directory, made once; `checkpoint(n, stock=True)` is its backbone as plain Qwen3."""
    made: dict[tuple, Path] = {}

    def make(num_streams: int, scheme: str = "contiguous", stock: bool = False) -> Path:
        key = (num_streams, scheme, stock)
        if key not in made:
            made[key] = tmp_path_factory.mktemp(f"n{num_streams}-{scheme}")
            if stock:
                plain_qwen3(model_of(num_streams, scheme)).save_pretrained(made[key])
                tiny_tokenizer().save_pretrained(made[key])
            else:
                save_tiny_checkpoint(made[key], num_streams, scheme, **SHAPE)
        return made[key]

    return make
