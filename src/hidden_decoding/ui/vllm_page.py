"""The chat page inside vLLM's own server, at /plugins/hidden_decoding/ (entry point `vllm.endpoint_plugins`).

Contract: serves the page's files and nothing else, with the headers of `page_files`; 404 for any other path. A request
with `stream_lens` is refused, since vLLM would answer it without a word about the field. vLLM loads it only when
`VLLM_PLUGINS` names it. The one module of this package that needs more than the standard library: what vLLM's server
runs on.

    $ VLLM_PLUGINS=hidden_decoding vllm serve path/to/checkpoint
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hidden_decoding.ui.lens_refusal import LensRefusal
from hidden_decoding.ui.page_files import local_page

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.responses import Response

PREFIX = "/plugins/hidden_decoding"


class ChatPage:
    """What vLLM asks of an endpoint plugin."""

    name = "hidden_decoding"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Adds the page's one route, and the answer to whoever asks vLLM for the stream lens."""
        app.add_api_route(PREFIX + "/{path:path}", answer, methods=["GET"], include_in_schema=False)
        app.add_middleware(LensRefusal, engine="vLLM")

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """The page talks to the server's public routes: it needs no state."""


def answer(path: str) -> Any:
    """One file of the page, or its configuration; the empty path is the page itself."""
    from starlette import responses

    found = local_page(path, api="../../v1")
    if found is None:
        text = "there is no such file in the chat page of this installation\n"
        return responses.PlainTextResponse(text, status_code=404)
    body, headers = found
    response: Response = responses.Response(body, headers=headers)
    return response
