"""docs/serving.md names every field of ours that OpenAI's client does not know, and every flag it speaks of exists."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

from openai.types.chat.completion_create_params import CompletionCreateParamsBase as ChatFields
from openai.types.completion_create_params import CompletionCreateParamsBase as CompletionFields

from hidden_decoding.engines.local.engine_config import EngineConfig
from hidden_decoding.serve.protocol import ChatRequest, CompletionRequest
from hidden_decoding.serve.settings import ServeConfig

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def test_every_field_beyond_openais_is_explained():
    ours = {*CompletionRequest.model_fields} - {*CompletionFields.__annotations__}
    ours |= {*ChatRequest.model_fields} - {*ChatFields.__annotations__}
    assert {"top_k", "stream_lens", "chat_template_kwargs"} <= ours, "the openai client's fields were not found"
    unexplained = sorted(name for name in ours - {"stream"} if f"`{name}`" not in PAGE)
    assert not unexplained


def test_every_flag_it_speaks_of_exists():
    flags = {
        f"--{field.name.replace('_', '-')}" for cls in (ServeConfig, EngineConfig) for field in dataclasses.fields(cls)
    }
    named = set(re.findall(r"`(--[a-z][a-z0-9-]+)", PAGE))
    assert len(named) > 15
    assert named - flags - {"--engine"} == set()


def test_the_speeds_beside_vllm_are_the_records():
    record = json.loads((ROOT / "benchmarks" / "records" / "vllm_cpu_bench100m.json").read_text(encoding="utf-8"))
    for n in ("1", "2", "4", "8"):
        speeds = record["tokens_per_second"][n]
        cells = [f"{speeds[f'local_{count}']:.0f} / {speeds[f'vllm_{count}']:.0f}" for count in (1, 8, 32)]
        assert f"| {n} | {' | '.join(cells)} |" in PAGE
