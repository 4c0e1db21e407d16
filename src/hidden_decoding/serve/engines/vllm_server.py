"""`serve --engine vllm`: vLLM's own server with our plugin, our reasoning parser and the chat page inside.

$ hidden-decoding serve path/to/checkpoint --engine vllm -- --tensor-parallel-size 2
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from hidden_decoding.modeling.hub import resolve_model
from hidden_decoding.modeling.inspection import inspect_checkpoint
from hidden_decoding.serve.engines.flags import allowed_plugins, vllm_flags
from hidden_decoding.serve.engines.process import EngineServer, run_engine, with_free_port

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hidden_decoding.engines.local.engine_config import EngineConfig
    from hidden_decoding.serve.engines.choice import Choice
    from hidden_decoding.serve.settings import ServeConfig

# The `vllm` command looks for a distribution of that name, which the CPU build is not; its module works for both.
SERVER_MODULE = "vllm.entrypoints.openai.api_server"


def serve_vllm(
    model: str,
    settings: ServeConfig,
    engine_config: EngineConfig,
    choice: Choice,
    *,
    revision: str | None = None,
    passed_on: Sequence[str] = (),
) -> int:
    """Runs vLLM on the model until it ends, and returns the exit code."""
    settings = with_free_port(settings)
    flags = vllm_flags(settings, engine_config, name=model)
    directory = resolve_model(model, revision)
    environment = {"VLLM_PLUGINS": allowed_plugins()}
    if len(settings.api_key) == 1:
        environment["VLLM_API_KEY"] = settings.api_key[0]
    server = EngineServer(
        name="vLLM",
        command=[sys.executable, "-m", SERVER_MODULE, "--model", str(directory), *flags, *passed_on],
        environment=environment,
        page=lambda url: contextlib.nullcontext(f"{url}/plugins/hidden_decoding/"),
    )
    tokens = engine_config.max_model_len or inspect_checkpoint(directory).context.tokens
    return run_engine(server, directory, settings, choice, tokens=tokens)
