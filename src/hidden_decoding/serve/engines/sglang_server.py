"""`serve --engine sglang`: SGLang's own server with our plugin, and the chat page beside it on its own port.

Flags of the original release may follow the bare `--`: its `--context-length` counted positions, and is divided by n;
`--cuda-graph-bs` gets the name it has today.

    $ hidden-decoding serve path/to/checkpoint --engine sglang -- --context-length 131072 --max-running-requests 32
"""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
from typing import TYPE_CHECKING

from hidden_decoding.engines.sglang.flags import CONTEXT, todays_flags
from hidden_decoding.errors import HiddenDecodingError
from hidden_decoding.modeling.hub import resolve_model
from hidden_decoding.modeling.inspection import inspect_checkpoint
from hidden_decoding.serve.engines.choice import has_gpu
from hidden_decoding.serve.engines.flags import sglang_flags
from hidden_decoding.serve.engines.process import EngineServer, run_engine, with_free_port
from hidden_decoding.serve.launch import bind, public_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hidden_decoding.engines.local.engine_config import EngineConfig
    from hidden_decoding.serve.engines.choice import Choice
    from hidden_decoding.serve.settings import ServeConfig

SERVER_MODULE = "sglang.launch_server"
PAGE_PORT = 8081  # where the original release has its page


def serve_sglang(
    model: str,
    settings: ServeConfig,
    engine_config: EngineConfig,
    choice: Choice,
    *,
    revision: str | None = None,
    passed_on: Sequence[str] = (),
) -> int:
    """Runs SGLang on the model until it ends, and returns the exit code."""
    settings = with_free_port(settings)
    flags = sglang_flags(settings, engine_config, name=model)
    directory = resolve_model(model, revision)
    found = inspect_checkpoint(directory)
    given, lines = todays_flags(list(passed_on), found.streams)
    for line in lines:
        sys.stdout.write(line + "\n")
    if engine_config.device == "auto" and not has_gpu():
        flags += ["--device", "cpu"]
    server = EngineServer(
        name="SGLang",
        command=[sys.executable, "-m", SERVER_MODULE, "--model-path", str(directory), *flags, *given],
        page=lambda url: page_beside(url, settings.host),
    )
    tokens = int(value_of(CONTEXT, given) or engine_config.max_model_len or found.context.tokens)
    return run_engine(server, directory, settings, choice, tokens=tokens)


def value_of(name: str, flags: Sequence[str]) -> str | None:
    """The value of a flag in a command line, in either spelling; the last one counts."""
    values = [flag.partition("=")[2] for flag in flags if flag.startswith(f"{name}=")]
    values += [after for flag, after in itertools.pairwise(flags) if flag == name]
    return values[-1] if values else None


@contextlib.contextmanager
def page_beside(url: str, host: str) -> Iterator[str]:
    """The chat page's own server for the API at `url`, as long as the block; yields what to tell the user."""
    try:
        bind(host, PAGE_PORT).close()
    except HiddenDecodingError:
        yield f"port {PAGE_PORT} is in use; run: hidden-decoding ui --base-url {url}/v1 --port 0"
        return
    command = [sys.executable, "-m", "hidden_decoding.ui", "--base-url", f"sglang={url}/v1"]
    page = subprocess.Popen([*command, "--host", host, "--port", str(PAGE_PORT)], stdout=subprocess.DEVNULL)
    try:
        yield f"{public_url(host, PAGE_PORT)}/"
    finally:
        page.terminate()
        page.wait()
