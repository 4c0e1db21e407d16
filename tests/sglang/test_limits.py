"""What cannot work is refused by name; the context counts tokens in both schemes. No engine is started."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from sglang.srt.arg_groups.overrides import resolving_view
from sglang.srt.layers.attention.attention_registry import ATTENTION_BACKENDS
from sglang.srt.model_executor.cuda_graph_config import Backend, Phase, default_cuda_graph_config, with_phase
from sglang.srt.models.registry import ModelRegistry
from sglang.srt.plugins import load_plugins
from sglang.srt.server_args import ServerArgs

from hidden_decoding.engines.sglang.attention import attend
from hidden_decoding.engines.sglang.limits import (
    SUPPORTED_BACKENDS,
    context_in_tokens,
    defaults,
    fastest_backend,
    kv_heads_of_a_slot,
    overrides,
)
from hidden_decoding.engines.sglang.rows import rows_to_slots, slots_to_rows
from hidden_decoding.errors import ConfigError
from hidden_decoding.streams import expand_positions, positions_to_tokens
from tests.support import save_tiny_checkpoint, tiny_config

REFUSED = [
    ({"enable_lora": True}, "--enable-lora"),
    ({"speculative_algorithm": "EAGLE"}, "--speculative-algorithm EAGLE"),
    ({"pp_size": 2}, "--pp-size"),
    ({"attn_dp_size": 2}, "data-parallel attention"),
    ({"attn_cp_size": 2}, "context parallelism"),
    ({"dcp_size": 2}, "context parallelism"),
    ({"enable_hierarchical_cache": True}, "--enable-hierarchical-cache"),
    ({"disaggregation_mode": "prefill"}, "--disaggregation-mode"),
    ({"enable_two_batch_overlap": True}, "--enable-two-batch-overlap"),
    ({"kv_cache_dtype": "fp8_e5m2"}, "--kv-cache-dtype fp8_e5m2"),
    ({"enable_deterministic_inference": True}, "--enable-deterministic-inference"),
    ({"enable_torch_compile": True}, "--enable-torch-compile"),
    ({"prefill_attention_backend": "fa3"}, "--prefill-attention-backend fa3"),
    ({"cuda_graph_backend_prefill": "full"}, "--cuda-graph-backend-prefill full"),
]


@pytest.mark.parametrize(("settings", "name"), REFUSED)
def test_refused_by_name(settings, name):
    with pytest.raises(ConfigError, match=rf"{name}.*n = 4 positions"):
        overrides(SimpleNamespace(**settings), tiny_config(4))
    assert overrides(SimpleNamespace(**settings), tiny_config(1)) == {}


def chosen(**given):
    """What our hook sets for n = 4, with SGLang's choices so far and what the user gave."""
    so_far = {
        "boundary_reduction": "auto",
        "attention_backend": None,
        "prefill_attention_backend": None,
        "device": "cpu",
        "dtype": "auto",
        "chunked_prefill_size": 8192,
        "page_size": None,
        "cuda_graph_config": default_cuda_graph_config(),
    }
    return defaults(SimpleNamespace(**{**so_far, **given}, _raw_input=given), 4)


def test_defaults_that_fit_are_set():
    found = chosen()
    assert found["attention_backend"] == "torch_native"
    assert found["chunked_prefill_size"] == 2048
    assert found["boundary_reduction"] == "ar"


@pytest.mark.parametrize("num_streams", [2, 8])
def test_a_plain_launch_takes_them(tmp_path, num_streams):
    def resolved(streams, **asked):
        directory = save_tiny_checkpoint(tmp_path / str(streams), streams)
        args = ServerArgs(model_path=str(directory), device="cpu", **asked)
        args.resolve_once()
        return resolving_view(args)

    load_plugins()
    found, usual = resolved(num_streams), resolved(1)
    assert found.attention_backend == "torch_native"
    assert found.cuda_graph_config.prefill.backend == Backend.DISABLED
    assert usual.chunked_prefill_size > 0
    assert found.chunked_prefill_size == positions_to_tokens(usual.chunked_prefill_size, num_streams)
    assert resolved(num_streams, chunked_prefill_size=24).chunked_prefill_size == 24


def test_a_default_step_holds_whole_pages():
    assert chosen(page_size=48)["chunked_prefill_size"] == 2016
    assert chosen(page_size=4096)["chunked_prefill_size"] == 4096


def test_what_the_user_gave_stays():
    found = chosen(attention_backend="fa3", chunked_prefill_size=100, boundary_reduction="rsv")
    assert not {"attention_backend", "chunked_prefill_size", "boundary_reduction"} & set(found)
    assert "chunked_prefill_size" not in chosen(chunked_prefill_size=-1)  # of the original release


def test_graphs_of_prompts_are_off_and_those_of_decoding_stay():
    graphs = with_phase(default_cuda_graph_config(), Phase.PREFILL, backend=Backend.BREAKABLE)
    graphs = with_phase(graphs, Phase.DECODE, backend=Backend.FULL, bs=[1, 2, 4])
    found = chosen(cuda_graph_config=graphs)["cuda_graph_config"]
    assert (found.prefill.backend, found.decode.backend) == (Backend.DISABLED, Backend.FULL)
    assert found.decode.bs == [1, 2, 4]


@pytest.mark.parametrize(
    ("capability", "dtype", "backend"),
    [
        ((9, 0), "auto", "fa3"),
        ((9, 0), "float32", "triton"),
        ((8, 0), "bfloat16", "triton"),
        ((10, 0), "auto", "triton"),
    ],
)
def test_the_backend_chosen_on_a_gpu(monkeypatch, capability, dtype, backend):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    assert fastest_backend("cuda", dtype) == backend


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"stream_attention": ["full", "intra"]}, "stream-factorised attention"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding-window attention"),
    ],
)
def test_layers_that_see_less_are_refused(config, name):
    kinds = {field: [value[0]] + [value[1]] * (tiny_config(4).num_hidden_layers - 1) for field, value in config.items()}
    with pytest.raises(ConfigError, match=name):
        overrides(SimpleNamespace(), tiny_config(4, **kinds))


@pytest.mark.parametrize("scheme", ["contiguous", "linear"])
def test_context_in_tokens(scheme):
    model_config, given = SimpleNamespace(hf_text_config=tiny_config(4, scheme)), []
    for asked in (None, 100):
        context_in_tokens(lambda _, tokens: given.append(tokens), model_config, asked)
    assert given == [256, 100]
    with pytest.raises(ConfigError, match=r"257 counts tokens, and the model's 1024 positions hold 256 tokens"):
        context_in_tokens(lambda *_: None, model_config, 257)


def test_a_slot_holds_the_heads_of_n_rows():
    assert kv_heads_of_a_slot(lambda *_: 2, SimpleNamespace(hf_text_config=tiny_config(4)), 1) == 8


def test_the_plugin_is_loaded_and_other_backends_are_refused():
    load_plugins()
    model = ModelRegistry.models["Qwen3ScaleSeqForCausalLM"]
    assert model.__module__ == "hidden_decoding.engines.sglang.model"
    runner = SimpleNamespace(model_config=SimpleNamespace(hf_text_config=tiny_config(2)))
    for name in set(ATTENTION_BACKENDS) - set(SUPPORTED_BACKENDS):
        with pytest.raises(ConfigError, match=f"attention backend {name} is not supported with n = 2"):
            ATTENTION_BACKENDS[name](runner)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_attention_over_slots_is_attention_over_rows(n):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(5 * n, heads, 8, generator=generator) for heads in (4, 2, 2))
    slots = torch.tensor([3, 0, 6, 2, 5])
    keys, values = torch.full((2, 7, 2 * n, 8), torch.nan)
    keys[slots], values[slots] = rows_to_slots(key, n), rows_to_slots(value, n)
    assert torch.equal(slots_to_rows(keys[slots], n), key)
    assert slots_to_rows(keys, n).data_ptr() == keys.data_ptr()
    rows = expand_positions(slots, n)
    got = attend(query[2 * n :], slots_to_rows(keys, n), slots_to_rows(values, n), [rows], [3 * n], 0.5)
    scores = torch.einsum("phe,qhe->hpq", query, key.repeat_interleave(2, 1)) * 0.5
    scores = scores.masked_fill(torch.ones(5 * n, 5 * n).triu(1).bool(), -torch.inf)
    expected = torch.einsum("hpq,qhe->phe", scores.softmax(-1), value.repeat_interleave(2, 1))
    torch.testing.assert_close(got, expected[2 * n :])
