"""What the page's server is told: where it listens, and which servers it passes requests on to.

>>> UiConfig(base_url=("local=http://localhost:8080/v1",)).upstreams()[0].name
'local'
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from hidden_decoding.errors import ConfigError

DEFAULT_BASE_URL = "http://localhost:8080/v1"


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """A server behind the page."""

    name: str
    url: str


@dataclass(frozen=True, kw_only=True)
class UiConfig:
    """How `hidden-decoding ui` listens and forwards. Raises `ConfigError` naming the flag."""

    base_url: tuple[str, ...] = field(
        default=(), metadata={"help": f"URL or NAME=URL of an API (repeatable; default: {DEFAULT_BASE_URL})"}
    )
    host: str = field(default="127.0.0.1", metadata={"help": "address to listen on"})
    port: int = field(default=8081, metadata={"help": "port to listen on; 0 picks a free one"})
    api_key: str | None = field(
        default=None, metadata={"help": "key for the APIs; it stays on this server", "metavar": "KEY"}
    )
    allow_any_base_url: bool = field(
        default=False, metadata={"help": "let the page's user type in a URL, which the browser then calls itself"}
    )

    allowed_host: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "a name this page is reached under (repeatable); addresses and this machine's own names always are"
        },
    )

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ConfigError(f"--port {self.port} cannot work; it must be from 0 to 65535")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key):
            raise ConfigError("--api-key as given cannot work; it must be printable ASCII")
        names = [upstream.name for upstream in self.upstreams()]
        if len(set(names)) < len(names):
            raise ConfigError(f"--base-url gives a name twice ({', '.join(names)}); write NAME=URL with other names")

    def upstreams(self) -> list[Upstream]:
        """The servers in the order of the flags."""
        return [_upstream(text, index) for index, text in enumerate(self.base_url or (DEFAULT_BASE_URL,))]


def _upstream(text: str, index: int) -> Upstream:
    named = re.match(r"([\w.-]+)=(.+)", text)
    name, url = named.groups() if named else (f"server-{index + 1}" if index else "server", text)
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        fine = False
    if not fine or parts.query or parts.fragment or parts.username:
        raise ConfigError(f"--base-url {text!r} is no http(s) URL of an API; write it like {DEFAULT_BASE_URL}")
    return Upstream(name=name, url=url.rstrip("/"))
