"""docs/serving.md names every field of ours that OpenAI's client does not know, and every flag it speaks of exists."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from openai.types.chat.completion_create_params import CompletionCreateParamsBase as ChatFields
from openai.types.completion_create_params import CompletionCreateParamsBase as CompletionFields

from hidden_decoding.engines.local.engine_config import EngineConfig
from hidden_decoding.serve.protocol import ChatRequest, CompletionRequest
from hidden_decoding.serve.settings import ServeConfig

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


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
