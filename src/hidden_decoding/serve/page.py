"""The chat page at `/`, before the key is asked for: its files are public, the API behind it is not.

Contract: the files come from a lookup that the caller hands over (`cli` takes `ui`'s), since packages of one level do
not know each other. `/` stays JSON for clients that do not ask for HTML.

    >>> app.add_middleware(ChatPage, lookup=lookup)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

# path below the root -> (body, headers), or None when it is no file of the page
PageLookup = Callable[[str], tuple[bytes, dict[str, str]] | None]


class ChatPage:
    """Answers GET for files of the page and hands everything else on."""

    def __init__(self, app: ASGIApp, lookup: PageLookup) -> None:
        self.app = app
        self.lookup = lookup

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a file, or calls the application."""
        found = None
        if scope["type"] == "http" and scope["method"] == "GET":
            path = scope["path"].removeprefix("/")
            if path or b"text/html" in dict(scope["headers"]).get(b"accept", b""):
                found = self.lookup(path)
        if found is None:
            await self.app(scope, receive, send)
            return
        body, headers = found
        await Response(body, headers=headers)(scope, receive, send)
