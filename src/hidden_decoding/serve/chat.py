"""`POST /v1/chat/completions`: messages through the model's chat template, with thinking, tools and JSON answers.

Order of a stream, per choice: the role, thinking, content and tool calls as they come, an empty delta with the finish
reason; then, if asked for, a chunk without choices that has the usage.
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from hidden_decoding.serve.answers import ChatChunk, ChatCompletion, dump
from hidden_decoding.serve.chat_pieces import ChatPieces, joined
from hidden_decoding.serve.errors import ApiError, bad_request
from hidden_decoding.serve.generation import Generation, Job
from hidden_decoding.serve.prompts import in_thread_if, is_long
from hidden_decoding.serve.sampling import answer_budget, sampling_params, structured_output
from hidden_decoding.serve.sse import EventStream, unless_disconnected
from hidden_decoding.serve.tool_choice import ToolUse, tool_use
from hidden_decoding.serve.usage import usage_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request

    from hidden_decoding.serve.answers import ChatChunkChoice, Usage
    from hidden_decoding.serve.prompts import Prompt
    from hidden_decoding.serve.protocol import ChatRequest
    from hidden_decoding.serve.state import ServerState


async def answer_chat(request: ChatRequest, http: Request, state: ServerState) -> Response:
    """The whole life of one request, up to the response."""
    model = state.check_model(request.model)
    state.note_unknown_fields(request)
    if request.top_logprobs and not request.logprobs:
        raise bad_request("top_logprobs", "top_logprobs needs logprobs: true")
    tools = tool_use(request)
    shown = request if tools.mode != "none" else request.model_copy(update={"tools": None})
    prompt = await in_thread_if(is_long(message.text for message in request.messages), state.prompts.chat, shown)
    answering = _Answering(request, model, prompt, tools, state)
    patience = state.settings.keep_alive_seconds
    try:
        if not request.stream:
            return await unless_disconnected(http.receive, answering.whole())
        await unless_disconnected(http.receive, answering.generation.open(patience))
    except ApiError as error:
        if tools.schema is not None and error.param == "response_format":  # the engine's name for a grammar
            raise bad_request("tools", error.message.replace("response_format holds", "tools hold")) from error
        raise
    return EventStream(answering.events(), close=answering.generation.close, keep_alive_seconds=patience)


def _jobs(request: ChatRequest, prompt: Prompt, tools: ToolUse, state: ServerState) -> list[Job]:
    by_new_name = request.max_completion_tokens is not None
    asked, param = (
        (request.max_completion_tokens, "max_completion_tokens") if by_new_name else (request.max_tokens, "max_tokens")
    )
    if asked == 0:
        raise bad_request(param, f"{param} is 0; it must be a whole number from 1")
    budget = answer_budget(
        asked, state.limits, prompt_tokens=len(prompt.token_ids), param=param, prompt_param="messages"
    )
    grammar = structured_output(request.response_format)
    if tools.schema is not None:
        grammar = {"json_schema": tools.schema}
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    jobs = []
    for sample in range(request.n or 1):
        params = sampling_params(
            request, state.limits, max_tokens=budget, sample=sample, logprobs=logprobs, structured_output=grammar
        )
        jobs.append(Job(token_ids=prompt.token_ids, params=params, sample=sample))
    return jobs


class _Answering:
    """One request on its way: its pieces, as a stream or put together."""

    def __init__(self, request: ChatRequest, model: str, prompt: Prompt, tools: ToolUse, state: ServerState) -> None:
        self.request = request
        self.prompt = prompt
        jobs = _jobs(request, prompt, tools, state)
        self.generation = Generation(state, jobs)
        self.head: dict[str, Any] = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self.head_ids = prompt.token_ids if request.return_token_ids else None
        free_text = jobs[0].params.structured_output is None
        self.sequences = [
            ChatPieces(
                index,
                state.token_texts,
                tools=tools.mode,
                splits_thinking=free_text and state.settings.reasoning_parser != "none",
                thinking_is_open=prompt.opens_thinking,
                with_logprobs=bool(request.logprobs),
                with_token_ids=bool(request.return_token_ids),
            )
            for index in range(len(jobs))
        ]

    async def whole(self) -> Response:
        """The answer in one body."""
        pieces: list[list[ChatChunkChoice]] = [[] for _ in self.sequences]
        try:
            await self.generation.open()
            async for index, delta in self.generation:
                pieces[index] += self.sequences[index].take(delta)
        finally:
            await self.generation.close()
        choices = [joined(of_one) for of_one in pieces]
        answer = ChatCompletion(**self.head, choices=choices, usage=self._usage(), prompt_token_ids=self.head_ids)
        return Response(dump(answer), media_type="application/json")

    async def events(self) -> AsyncGenerator[str, None]:
        """The answer as JSON texts of chunks."""
        options = self.request.stream_options
        wants_usage = options is not None and bool(options.include_usage)
        running_usage = options is not None and bool(options.continuous_usage_stats)
        for sequence in self.sequences:
            chunk = ChatChunk(**self.head, choices=[sequence.role()], prompt_token_ids=self.head_ids)
            yield dump(chunk, null_usage=wants_usage)
        async for index, delta in self.generation:
            for piece in self.sequences[index].take(delta):
                usage = self._usage() if running_usage else None
                yield dump(ChatChunk(**self.head, choices=[piece], usage=usage), null_usage=wants_usage)
        if wants_usage:
            yield dump(ChatChunk(**self.head, choices=[], usage=self._usage()))

    def _usage(self) -> Usage:
        thinking = sum(sequence.reasoning_tokens for sequence in self.sequences)
        return usage_of(self.generation, reasoning_tokens=thinking)
