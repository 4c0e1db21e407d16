"""Loading for computing: the same answers whatever stays in the file, is packed, tied or converted."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from hidden_decoding import LocalEngine, SamplingParams
from hidden_decoding.engines.local.int8_linear import Int8Linear
from hidden_decoding.engines.local.packed_linear import PackedLinear
from hidden_decoding.engines.local.weights import HostTable, load_for_computing
from hidden_decoding.errors import CheckpointError, ConfigError
from hidden_decoding.modeling.checkpoint import load_model
from tests.engines.test_local_engine import GREEDY, prompts
from tests.support import LOGIT_TOLERANCE, BruteForce, assert_same_greedy, save_tiny_checkpoint, tiny_model

CPU = torch.device("cpu")


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("tables", ["mmap", "host", "device"])
@pytest.mark.parametrize("num_streams", [1, 2, 8])
def test_every_way_of_loading_answers_the_same(tiny_checkpoint, num_streams, tables, pack):
    directory = tiny_checkpoint(num_streams)
    engine = LocalEngine(directory, kv_cache_memory_bytes="16MiB", stream_tables=tables, pack_weights=pack)
    reference = BruteForce(tiny_model(num_streams))
    [prompt] = prompts(1, seed=2)
    [output] = engine.generate([prompt], SamplingParams(max_tokens=12, **GREEDY))
    assert_same_greedy(output.token_ids, *reference.greedy(prompt, 12), LOGIT_TOLERANCE)
    kinds = {type(table) for table in engine.model.model.scale_seq_embed_tokens_list}
    assert kinds == (set() if num_streams == 1 else {nn.Embedding if tables == "device" else HostTable})
    assert any(isinstance(module, PackedLinear) for module in engine.model.modules()) == pack
    assert engine.summary()["parameters"] == sum(p.numel() for p in tiny_model(num_streams).parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_equal_transformers_loading(tmp_path, dtype):
    directory = save_tiny_checkpoint(tmp_path / "m", 3, "linear")
    ids = torch.tensor([prompts(1)[0]])
    ours = load_for_computing(directory, dtype=dtype, device=CPU, linear="plain")
    theirs = load_model(directory, dtype=dtype)
    assert ours.dtype == getattr(torch, dtype)
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=0, rtol=0)


def test_tied_heads_stay_tied(tmp_path):
    directory = save_tiny_checkpoint(tmp_path / "m", 2, tie_word_embeddings=True)
    model = load_for_computing(directory, dtype="auto", device=CPU)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    ids = torch.tensor([prompts(1)[0]])
    torch.testing.assert_close(model(ids).logits, load_model(directory)(ids).logits, atol=LOGIT_TOLERANCE, rtol=0)


def test_int8_is_close_and_a_quarter_of_the_size(tmp_path):
    directory = save_tiny_checkpoint(tmp_path / "m", 2)
    ids = torch.tensor([prompts(1)[0]])
    exact = load_for_computing(directory, dtype="auto", device=CPU)(ids).logits
    model = load_for_computing(directory, dtype="auto", device=CPU, linear="int8")
    rounded = model(ids).logits
    assert not torch.equal(exact, rounded)
    assert torch.nn.functional.cosine_similarity(exact.flatten(), rounded.flatten(), dim=0) > 0.995
    layer = model.model.layers[0].mlp.up_proj
    assert layer.weight_int8.dtype == torch.int8
    assert type(model.lm_head) is nn.Linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_int8_layers_compute_the_rounded_weight(rows, dtype):
    layer = nn.Linear(64, 96, bias=False, dtype=dtype)
    with torch.no_grad():
        layer.weight[3] = 0
    rounded = Int8Linear(layer)
    x = torch.randn(1, rows, 64, dtype=dtype)
    weight = rounded.weight_int8.float() * rounded.scales.float()
    assert (weight - layer.weight.float()).abs().amax() <= layer.weight.float().abs().amax() / 127 * 0.51 + 1e-3
    expected = x.float() @ weight.T
    torch.testing.assert_close(rounded(x).float(), expected, atol=1e-5 if dtype == torch.float32 else 3e-2, rtol=0)


def test_the_engine_answers_with_int8_weights(tiny_checkpoint):
    engine = LocalEngine(tiny_checkpoint(2), kv_cache_memory_bytes="8MiB", quantization="int8")
    [output] = engine.generate(prompts(1), SamplingParams(max_tokens=8, **GREEDY))
    assert len(output.token_ids) == 8


def test_mapped_tables_never_change_the_file(tmp_path):
    directory = save_tiny_checkpoint(tmp_path / "m", 2)
    before = (directory / "model.safetensors").read_bytes()
    model = load_for_computing(directory, dtype="auto", device=CPU)
    model.model.scale_seq_embed_tokens_list[0].rows_VD.zero_()
    del model
    gc.collect()
    assert (directory / "model.safetensors").read_bytes() == before


def test_a_broken_checkpoint_is_refused_before_loading(tmp_path):
    directory = save_tiny_checkpoint(tmp_path / "m", 2)
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        LocalEngine(directory)


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"stream_attention": ["intra", "full", "full"]}, {}, "stream_attention"),
        ({}, {"max_model_len": 257}, "257 tokens = 514 positions"),
        ({}, {"device": "cuda" if not torch.cuda.is_available() else "mps"}, "finds no such device"),
    ],
)
def test_what_the_config_rules_out_is_refused_before_any_weight(tmp_path, changes, options, words):
    """There are no weights here: looking for them would be another error."""
    config = {**tiny_model(2).config.to_dict(), **changes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=words):
        LocalEngine(tmp_path, **options)


MEASURE = """
import sys
from hidden_decoding.bench.memory import resident_bytes
from hidden_decoding import LocalEngine
before = resident_bytes()
engine = LocalEngine(sys.argv[1], kv_cache_memory_bytes="8MiB")
print(resident_bytes().total - before.total)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="resident memory is read from Linux's /proc")
def test_resident_memory_hardly_grows_with_streams(tmp_path):
    """Tables of 8 streams are 4 times the backbone here; resident memory must stay within 10% of one stream's."""
    sizes = {}
    for n in (1, 8):
        wide = {"hidden_size": 512, "vocab_size": 16384, "intermediate_size": 1536, "num_hidden_layers": 6}
        directory = save_tiny_checkpoint(tmp_path / f"n{n}", n, **wide)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        result = subprocess.run(
            [sys.executable, "-c", MEASURE, str(directory)], capture_output=True, text=True, check=True, env=environment
        )
        sizes[n] = int(result.stdout)
    assert sizes[1] > 50 * 2**20
    assert sizes[8] < 1.1 * sizes[1], sizes
