"""One tiny model, one server over it, and one directory of data: real sets where there are some, fixtures else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hidden_decoding.evaluate.data_sets import DataSource, data_sets
from hidden_decoding.train.tokenizer import standard_library_texts, train_tokenizer
from tests.evaluate.fixtures import write_ceval, write_everything, write_gpqa
from tests.serve.support import running_server
from tests.support import tiny_model

REAL = Path(os.environ.get("HIDDEN_DECODING_DATA", Path(__file__).parents[3] / "shared" / "data")) / "eval"
SHAPE = {
    "vocab_size": 4096, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16,
}  # fmt: skip
ENGINE = {"kv_cache_memory_bytes": "64MiB", "max_num_seqs": 32}


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """The real sets, with fixtures for C-Eval and GPQA, which are nowhere to be had; all fixtures without real data."""
    directory = tmp_path_factory.mktemp("data")
    if not REAL.is_dir():
        write_everything(directory)
        return directory
    for path in REAL.iterdir():
        (directory / path.name).symlink_to(path)
    write_ceval(directory)
    write_gpqa(directory)
    return directory


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Only the real sets."""
    from tests.conftest import missing

    if not REAL.is_dir():
        missing("real benchmark files (HIDDEN_DECODING_DATA)")
    return REAL


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, data):
    """n = 2, one layer, 8,192 tokens of context; its tokenizer has seen the standard library and some questions."""
    directory = tmp_path_factory.mktemp("model")
    source = DataSource(data)
    texts = [
        str(row) for name in ("gsm8k", "arc_challenge") for row in source.splits(name, data_sets()[name].config)["test"]
    ]
    train_tokenizer([*standard_library_texts(limit_bytes=100_000), *texts[:600]], 4096).save_pretrained(directory)
    tiny_model(2, max_position_embeddings=2 * 8192, **SHAPE).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def server(checkpoint):
    """The checkpoint over HTTP."""
    with running_server(checkpoint, served_model_name=("tiny",), engine=ENGINE) as running:
        yield running
