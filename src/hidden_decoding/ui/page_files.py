"""The chat page's files, and the headers to send with them. For whoever serves the page: standard library only.

Contract: `page_file(path)` knows exactly the files of `page/`; anything else, `..` included, is None. Every answer
carries `headers_for(...)`: its policy allows no inline script, no foreign host and no frame around the page.

    >>> page_file("").content_type
    'text/html; charset=utf-8'
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}


@dataclass(frozen=True, kw_only=True)
class PageFile:
    """One file of the page."""

    body: bytes
    content_type: str


@functools.cache
def page_paths() -> frozenset[str]:
    """Every path below the page's root, such as `api.js` and `vendor/marked.js`."""

    def walk(folder: Traversable, prefix: str) -> list[str]:
        found = []
        for entry in folder.iterdir():
            path = f"{prefix}{entry.name}"
            found += walk(entry, f"{path}/") if entry.is_dir() else [path]
        return found

    return frozenset(path for path in walk(_root(), "") if PurePosixPath(path).suffix in CONTENT_TYPES)


def page_file(path: str) -> PageFile | None:
    """The file at a path relative to the page's root (empty: the page itself), or None."""
    path = path or "index.html"
    if path not in page_paths():
        return None
    return PageFile(body=_root().joinpath(path).read_bytes(), content_type=CONTENT_TYPES[PurePosixPath(path).suffix])


def content_security_policy(*, any_base_url: bool = False) -> str:
    """The policy; `any_base_url` lets the page's requests (not its scripts) reach other hosts."""
    connect = "connect-src 'self' http: https:; " if any_base_url else ""
    return (
        f"default-src 'self'; {connect}object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def headers_for(content_type: str, *, any_base_url: bool = False) -> dict[str, str]:
    """Headers of an answer that carries a file of the page or its configuration."""
    return {
        "content-type": content_type,
        "content-security-policy": content_security_policy(any_base_url=any_base_url),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }


def page_config(apis: list[dict[str, str]], *, any_base_url: bool = False) -> bytes:
    """`config.json`: `apis` are `{"name", "path"}`, the path relative to the page and ending in `v1`."""
    config: dict[str, Any] = {"apis": apis, "any_base_url": any_base_url}
    return json.dumps(config).encode()


def local_page(path: str, *, api: str = "v1") -> tuple[bytes, dict[str, str]] | None:
    """What a server with an API of its own answers: a file or `config.json`, which names the API's path from there."""
    if path == "config.json":
        return page_config([{"name": "server", "path": api}]), headers_for("application/json")
    found = page_file(path)
    return None if found is None else (found.body, headers_for(found.content_type))


def _root() -> Traversable:
    return files("hidden_decoding.ui").joinpath("page")
