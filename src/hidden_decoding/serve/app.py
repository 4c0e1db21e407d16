"""The web application: routes, what they declare in `/openapi.json`, and how errors become answers.

Contract: every error leaves in OpenAI's shape (`errors.py`); routes only hand over to the module that does the work.

    >>> uvicorn.run(create_app(state))
"""

# No `from __future__ import annotations` here: FastAPI reads the annotations of routes at run time.
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from hidden_decoding import __version__
from hidden_decoding.errors import HiddenDecodingError
from hidden_decoding.serve import answers
from hidden_decoding.serve.answers import dump
from hidden_decoding.serve.chat import answer_chat
from hidden_decoding.serve.completions import answer_completion
from hidden_decoding.serve.errors import ApiError, from_exception, from_validation, shown
from hidden_decoding.serve.middleware import BearerAuth, BodyLimit, FaultBarrier
from hidden_decoding.serve.page import ChatPage, PageLookup
from hidden_decoding.serve.prompts import in_thread_if, is_long
from hidden_decoding.serve.protocol import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from hidden_decoding.serve.sse import ClientGoneError
from hidden_decoding.serve.state import ServerState

log = logging.getLogger(__name__)
router = APIRouter()

_MEANINGS = {
    400: "The request cannot be served as it is; the message names the field and the limit.",
    401: "No key, or a wrong one.",
    404: "No such model, or no such route.",
    408: "The request took longer than the server allows.",
    413: "The body is larger than the server allows.",
    429: "Too many requests wait already; `retry-after` says when to come back.",
    500: "The server failed.",
    503: "The server is stopping.",
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": answers.ErrorResponse, "description": "Any other bad request."},
    **{status: {"model": answers.ErrorResponse, "description": text} for status, text in _MEANINGS.items()},
}


def _streams(chunk: str) -> dict[int | str, dict[str, Any]]:
    """A 200 that is a stream of events when the request says so."""
    text = f"With `stream: true`: server-sent events, each a {chunk}, the last one `[DONE]`."
    events = {"schema": {"type": "string"}}
    return {200: {"description": f"The answer. {text}", "content": {"text/event-stream": events}}, **_ERRORS}


def state_of(request: Request) -> ServerState:
    """The server behind a request."""
    state: ServerState = request.app.state.server
    return state


def _json(answer: answers.Answer) -> Response:
    return Response(dump(answer), media_type="application/json")


# ---------------------------------------------------------------------------------------------------------- routes


@router.post("/v1/completions", response_model=answers.Completion, responses=_streams("completion chunk"))
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Continue a prompt."""
    return await answer_completion(body, request, state_of(request))


@router.post("/v1/chat/completions", response_model=answers.ChatCompletion, responses=_streams("chat chunk"))
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Answer a conversation."""
    return await answer_chat(body, request, state_of(request))


@router.get("/v1/models", response_model=answers.ModelList, responses=_ERRORS)
async def models(request: Request) -> Response:
    """The served model, once per name."""
    state = state_of(request)
    return _json(answers.ModelList(data=[_card(state, name) for name in state.names]))


@router.get("/v1/models/{model_id:path}", response_model=answers.ModelCard, responses=_ERRORS)
async def model(model_id: str, request: Request) -> Response:
    """One name of the served model."""
    state = state_of(request)
    return _json(_card(state, state.check_model(model_id)))


def _card(state: ServerState, name: str) -> answers.ModelCard:
    return answers.ModelCard(
        id=name,
        created=state.created,
        max_model_len=state.limits.context_tokens,
        streams=state.engine.num_streams,
    )


@router.post("/tokenize", response_model=answers.Tokens, responses=_ERRORS)
async def tokenize(body: TokenizeRequest, request: Request) -> Response:
    """Text, or messages as chat renders them, to token ids."""
    state = state_of(request)
    state.check_model(body.model)
    state.note_unknown_fields(body)
    special = body.add_special_tokens
    if body.prompt is None:
        prompt = state.prompts.chat(body, add_special_tokens=bool(special))
    else:
        prompt = await in_thread_if(
            is_long([body.prompt]),
            state.prompts.text,
            body.prompt,
            add_special_tokens=True if special is None else special,
            allow_empty=True,
        )
    ids = prompt.token_ids
    names = [state.token_texts.text(token_id) for token_id in ids] if body.return_token_strs else None
    return _json(
        answers.Tokens(count=len(ids), max_model_len=state.limits.context_tokens, tokens=ids, token_strs=names)
    )


@router.post("/detokenize", response_model=answers.Text, responses=_ERRORS)
async def detokenize(body: DetokenizeRequest, request: Request) -> Response:
    """Token ids to text."""
    state = state_of(request)
    state.check_model(body.model)
    state.note_unknown_fields(body)
    state.prompts.check(body.tokens, "tokens")
    if state.engine.tokenizer is None:
        raise ApiError(400, "this checkpoint has no tokenizer, so token ids have no text", param="tokens")
    return _json(answers.Text(prompt=state.prompts.decode(body.tokens)))


@router.get("/health", response_model=answers.Health, responses=_ERRORS)
async def health(request: Request) -> Response:
    """200 while requests are served; 503 when the server is stopping or its engine has failed."""
    state = state_of(request)
    if state.draining:
        raise ApiError(503, "the server is stopping")
    if not state.async_engine.is_healthy:
        raise ApiError(503, "the engine has stopped; restart the server", code="engine_stopped")
    return _json(answers.Health())


@router.get("/version", response_model=answers.Version, responses=_ERRORS)
async def version() -> Response:
    """The version of hidden-decoding."""
    return _json(answers.Version(version=__version__))


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"description": "Prometheus' text format.", "content": {"text/plain": {}}}, **_ERRORS},
)
async def metrics(request: Request) -> Response:
    """Counters under vLLM's names."""
    return Response(state_of(request).metrics.scrape(), headers={"content-type": CONTENT_TYPE_LATEST})


@router.get("/", response_model=answers.Pointer, responses=_ERRORS)
async def root(request: Request) -> Response:
    """Where things are."""
    paths = sorted(request.app.openapi()["paths"])
    names = state_of(request).names
    return _json(
        answers.Pointer(name="hidden-decoding", version=__version__, model=names[0], routes=[*paths, "/openapi.json"])
    )


@router.api_route("/v1/responses{rest:path}", methods=["GET", "POST", "DELETE"], include_in_schema=False)
async def no_responses_api(rest: str) -> Response:  # noqa: ARG001
    """The Responses API is not served; say what is."""
    raise ApiError(404, "this server has no Responses API; use POST /v1/chat/completions", code="not_found")


# ------------------------------------------------------------------------------------------------------ application


def create_app(state: ServerState, page: PageLookup | None = None) -> FastAPI:
    """The application over one engine; its lifespan starts and stops the engine's thread."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await state.async_engine.start()
        yield
        await state.async_engine.shutdown(drain_seconds=0)

    app = FastAPI(
        title="hidden-decoding",
        version=__version__,
        description="OpenAI-compatible server for Sequential Hidden Decoding models. All counts are in tokens.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        separate_input_output_schemas=False,
    )
    app.state.server = state
    app.include_router(router)
    _add_error_handlers(app)
    settings = state.settings
    # The last one added is the first one a request meets.
    app.add_middleware(FaultBarrier)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(BearerAuth, keys=settings.api_key)
    if page is not None:
        app.add_middleware(ChatPage, lookup=page)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.allowed_origins, allow_methods=["*"], allow_headers=["*"]
        )
    return app


def _add_error_handlers(app: FastAPI) -> None:
    async def api_error(_: Request, error: Exception) -> Response:
        return from_exception(error).response()

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError), error
        return from_validation(error.errors(), error.body).response()

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException), error
        messages = {
            404: f"there is no route {request.method} {shown(request.url.path)[1:-1]}; GET / lists the routes",
            405: f"{request.url.path} does not take {request.method}",
        }
        return ApiError(
            error.status_code, messages.get(error.status_code, str(error.detail)), headers=error.headers
        ).response()

    async def client_gone(_: Request, __: Exception) -> Response:
        return Response(status_code=499)

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(HiddenDecodingError, api_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(ClientGoneError, client_gone)
