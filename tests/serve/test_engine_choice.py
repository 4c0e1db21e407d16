"""Which engine `serve` takes on which machine, and our flags as vLLM's."""

from __future__ import annotations

import pytest

from hidden_decoding.engines.local.engine_config import EngineConfig
from hidden_decoding.errors import ConfigError, DependencyError
from hidden_decoding.serve.engines import choice
from hidden_decoding.serve.engines.flags import WITHOUT_COUNTERPART, allowed_plugins, sglang_flags, vllm_flags
from hidden_decoding.serve.engines.sglang_server import value_of
from hidden_decoding.serve.settings import ServeConfig


@pytest.fixture
def machine(monkeypatch):
    """`machine(installed, gpu, cpu_build)` makes this machine look like another."""

    def make(installed: tuple[str, ...], gpu: bool = False, cpu_build: bool = False) -> None:
        monkeypatch.delenv("SGLANG_PLATFORM", raising=False)
        monkeypatch.setattr(choice.util, "find_spec", lambda name: object() if name in installed else None)
        monkeypatch.setattr(choice, "has_gpu", lambda: gpu)
        monkeypatch.setattr(choice, "is_cpu_build", lambda: cpu_build)

    return make


@pytest.mark.parametrize(
    ("installed", "gpu", "cpu_build", "engine", "why"),
    [
        ((), True, False, "local", "vllm is not installed"),
        (("vllm",), False, False, "local", "no GPU and it is not a build for CPUs"),
        (("vllm",), False, True, "vllm", "can run here"),
        (("vllm",), True, False, "vllm", "can run here"),
        (("sglang",), True, False, "sglang", "vllm is not installed (pip install 'hidden-decoding[vllm]'); sglang is"),
        (("sglang",), False, False, "local", "SGLANG_PLATFORM names no other"),
    ],
)
def test_auto_says_which_and_why(machine, installed, gpu, cpu_build, engine, why):
    machine(installed, gpu, cpu_build)
    chosen = choice.choose_engine("auto")
    assert chosen.engine == engine
    assert why in chosen.why


def test_an_engine_asked_for_that_cannot_run_is_refused(machine):
    machine(("vllm",))
    with pytest.raises(DependencyError, match="no GPU"):
        choice.choose_engine("vllm")


def test_flags_become_vllms():
    settings = ServeConfig(port=9000, served_model_name=("tiny",), api_key=("k", "l"), reasoning_parser="none")
    engine = EngineConfig(max_model_len=64, kv_cache_memory_bytes="1MiB", enable_prefix_caching=False)
    flags = vllm_flags(settings, engine, name="dir")
    for expected in (
        ["--port", "9000"],
        ["--served-model-name", "tiny", "default"],
        ["--max-model-len", "64"],
        ["--kv-cache-memory-bytes", "1048576"],
        ["--no-enable-prefix-caching"],
        ["--api-key", "k", "l"],
    ):
        at = flags.index(expected[0])
        assert flags[at : at + len(expected)] == expected
    assert "--reasoning-parser" not in flags


def test_a_single_key_is_on_no_command_line():
    assert "k" not in vllm_flags(ServeConfig(api_key=("k",)), EngineConfig(), name="dir")


def test_flags_become_sglangs():
    settings = ServeConfig(port=9000, api_key=("k",))
    engine = EngineConfig(
        max_model_len=64, max_num_seqs=4, max_num_batched_tokens=13, device="cpu", enable_prefix_caching=False
    )
    flags = sglang_flags(settings, engine, name="dir")
    for expected in (
        ["--port", "9000"],
        ["--served-model-name", "dir"],
        ["--context-length", "64"],
        ["--max-running-requests", "4"],
        ["--chunked-prefill-size", "13"],
        ["--device", "cpu"],
        ["--disable-radix-cache"],
        ["--api-key", "k"],
    ):
        at = flags.index(expected[0])
        assert flags[at : at + len(expected)] == expected


@pytest.mark.parametrize(
    ("settings", "engine", "name"),
    [
        ({"api_key": ("a", "b")}, {}, "one --api-key"),
        ({"served_model_name": ("a", "b")}, {}, "one --served-model-name"),
        ({}, {"kv_cache_memory_bytes": "1MiB"}, "no counterpart of --kv-cache-memory-bytes"),
        ({}, {"block_size": 4}, "no counterpart of --block-size"),
    ],
)
def test_what_sglang_cannot_follow_is_refused_by_name(settings, engine, name):
    with pytest.raises(ConfigError, match=name):
        sglang_flags(ServeConfig(**settings), EngineConfig(**engine), name="dir")


def test_the_last_value_of_a_flag_counts():
    flags = ["--context-length=8", "--x", "--context-length", "9"]
    assert value_of("--context-length", flags) == "9"
    assert value_of("--attention-backend", flags) is None


@pytest.mark.parametrize("name", WITHOUT_COUNTERPART)
def test_a_flag_without_counterpart_is_refused_by_name(name):
    texts = {"device": "cpu", "stream_tables": "host", "quantization": "int8", "pack_weights": False}
    value = texts.get(name, 0.5 if name == "kv_cache_fraction" else 2000)
    in_server = name in ServeConfig.__dataclass_fields__
    settings = ServeConfig(**{name: value} if in_server else {})
    engine = EngineConfig(**{} if in_server else {name: value})
    with pytest.raises(ConfigError, match="--" + name.replace("_", "-")):
        vllm_flags(settings, engine, name="dir")


def test_the_allow_list_keeps_what_the_user_named(monkeypatch):
    monkeypatch.setenv("VLLM_PLUGINS", "other")
    assert allowed_plugins() == "other,hidden_decoding"
