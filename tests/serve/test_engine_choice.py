"""Which engine `serve` takes on which machine, and our flags as vLLM's."""

from __future__ import annotations

import pytest

from hidden_decoding.engines.local.engine_config import EngineConfig
from hidden_decoding.errors import ConfigError, DependencyError
from hidden_decoding.serve.engines import choice
from hidden_decoding.serve.engines.flags import WITHOUT_COUNTERPART, allowed_plugins, vllm_flags
from hidden_decoding.serve.settings import ServeConfig


@pytest.fixture
def machine(monkeypatch):
    """`machine(installed, gpu, cpu_build)` makes this machine look like another."""

    def make(installed: tuple[str, ...], gpu: bool = False, cpu_build: bool = False) -> None:
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
        (("sglang",), True, False, "local", "serve does not start sglang yet"),
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
    settings = ServeConfig(port=9000, served_model_name=("tiny",), api_key=("k",), reasoning_parser="none")
    engine = EngineConfig(max_model_len=64, kv_cache_memory_bytes="1MiB", enable_prefix_caching=False)
    flags = vllm_flags(settings, engine, name="dir")
    for expected in (
        ["--port", "9000"],
        ["--served-model-name", "tiny", "default"],
        ["--max-model-len", "64"],
        ["--kv-cache-memory-bytes", "1048576"],
        ["--no-enable-prefix-caching"],
        ["--api-key", "k"],
    ):
        at = flags.index(expected[0])
        assert flags[at : at + len(expected)] == expected
    assert "--reasoning-parser" not in flags


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
