"""From flags to a running server: what can be refused is refused before weights are loaded; signals drain.

Contract: `serve` returns 0 after SIGTERM or SIGINT once running requests have ended (or `drain_seconds` passed); a
port in use, a missing model or too little memory raise typed errors first. The last line printed is a curl that works.
The engine, and with it torch, is imported only once the rest is known to be fine.

    $ hidden-decoding serve path/to/checkpoint
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shlex
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from hidden_decoding.errors import CapacityError, ConfigError
from hidden_decoding.modeling.hub import resolve_model
from hidden_decoding.serve.app import create_app
from hidden_decoding.serve.state import ServerState

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from hidden_decoding.engines.local.engine import LocalEngine
    from hidden_decoding.engines.local.engine_config import EngineConfig
    from hidden_decoding.serve.page import PageLookup
    from hidden_decoding.serve.settings import ServeConfig

log = logging.getLogger(__name__)


def serve(
    model: str,
    settings: ServeConfig,
    engine_config: EngineConfig,
    *,
    revision: str | None = None,
    page: PageLookup | None = None,
) -> int:
    """Loads the model, serves it (and `page` at `/`) until a signal, and returns the exit code."""
    template = read_chat_template(settings.chat_template)
    listener = bind(settings.host, settings.port)
    with contextlib.closing(listener):
        engine = load_engine(resolve_model(model, revision), engine_config)
        state = make_state(engine, settings, model=model, chat_template=template)
        server = DrainingServer(state, listener, page)
        asyncio.run(server.serve(sockets=[listener]))
    return 0


def load_engine(directory: Path, engine_config: EngineConfig) -> LocalEngine:
    """The engine; running out of memory while loading becomes one clear line."""
    from hidden_decoding.engines.local.engine import LocalEngine

    try:
        return LocalEngine(directory, engine_config)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, CapacityError) or "memory" not in f"{type(error).__name__} {error}".lower():
            raise
        raise CapacityError(
            f"there is not enough memory to load {directory}; see what it needs: hidden-decoding inspect {directory}"
        ) from error


def make_state(
    engine: LocalEngine, settings: ServeConfig, *, model: str, chat_template: str | None = None
) -> ServerState:
    """The shared state of a server over `engine`."""
    from hidden_decoding.engines.local.async_engine import AsyncLocalEngine

    # The server admits whole requests (`Generation`), so the engine's own limit is only a second line.
    most = engine.config.max_num_seqs + settings.max_waiting_requests
    async_engine = AsyncLocalEngine(engine, max_waiting=most)
    return ServerState(engine, async_engine, settings, model=model, chat_template=chat_template)


def read_chat_template(path: str | None) -> str | None:
    """The text of `--chat-template`; `ConfigError` when it cannot be read."""
    if path is None:
        return None
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(
            f"--chat-template {path!r} cannot be read ({reason}); give a file with a Jinja template"
        ) from error


def bind(host: str, port: int) -> socket.socket:
    """A bound socket, taken before anything slow happens; `CapacityError` when the port is in use."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigError(f"--host {host!r} is not an address of this machine ({error.strerror})") from error
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise CapacityError(
            f"cannot listen on {host} port {port} ({error.strerror}); choose another one with --port, or 0 for any"
        ) from error
    return listener


class DrainingServer(uvicorn.Server):
    """uvicorn, but a signal first lets running requests end, while new ones get 503; a second signal ends at once."""

    def __init__(self, state: ServerState, listener: socket.socket, page: PageLookup | None = None) -> None:
        verbose = log.isEnabledFor(logging.INFO)
        super().__init__(
            uvicorn.Config(
                create_app(state, page),
                log_config=None,
                access_log=verbose,
                lifespan="on",
                server_header=False,
                timeout_graceful_shutdown=5,
            )
        )
        self.state = state
        self.listener = listener
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to listen, then says so."""
        await super().startup(sockets)
        print_start(self.state, self.listener)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are handled inside the event loop, and do not kill the process afterwards."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Begins to drain; called a second time, ends at once."""
        if self._draining is not None:
            self.force_exit = self.should_exit = True
            return
        self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        await self.state.drain(self.state.settings.drain_seconds)
        self.should_exit = True


# ---------------------------------------------------------------------------------------------------------- start-up


def print_start(state: ServerState, listener: socket.socket) -> None:
    """What is served, in tokens and positions; last the URL with a curl that works."""
    host, port = listener.getsockname()[:2]
    lines = [*start_lines(state.names, state.engine.summary()), *url_lines(state, host, port)]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def start_lines(names: Sequence[str], summary: dict[str, Any]) -> list[str]:
    """The table of what was loaded."""
    rows = (
        ("model", ", ".join(names)),
        ("streams", f"n = {summary['streams']}"),
        ("parameters", f"{summary['parameters'] / 1e6:,.1f} M, {summary['dtype']} on {summary['device']}"),
        ("KV budget", _both(summary, "kv_cache") + f", {summary['kv_cache_bytes'] / 2**20:,.0f} MiB"),
        ("context", _both(summary, "context") + " (prompt and answer together)"),
    )
    return [f"{name:<11}{text}" for name, text in rows]


def _both(summary: dict[str, Any], what: str) -> str:
    return f"{summary[f'{what}_tokens']:,} tokens = {summary[f'{what}_positions']:,} positions"


def url_lines(state: ServerState, host: str, port: int) -> list[str]:
    """The URL, and a curl for what this model can do."""
    url = f"{public_url(host, port)}/v1"
    prompt: Any = "Once upon a time" if state.engine.tokenizer is not None else [1, 2, 3]
    has_template = state.prompts.chat_template is not None
    return [f"{'URL':<11}{url}", curl_line(url, None if has_template else prompt, bool(state.settings.api_key))]


def public_url(host: str, port: int) -> str:
    """Where a client on this machine reaches a server that listens on `host`."""
    shown_host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown_host}:{port}"


def curl_line(url: str, prompt: Any, needs_key: bool, **fields: Any) -> str:
    """A request that works: a chat, or with a `prompt` (text or token ids) a completion."""
    if prompt is None:
        path, body = "chat/completions", {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 32}
    else:
        path, body = "completions", {"prompt": prompt, "max_tokens": 32}
    key = " -H 'authorization: Bearer '\"$API_KEY\"" if needs_key else ""
    data = shlex.quote(json.dumps({**fields, **body}))
    return f"curl {url}/{path} -H 'content-type: application/json'{key} -d {data}"
