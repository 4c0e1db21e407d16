"""`POST /v1/completions`: prompts as text or token ids, one or many, echo and log-probabilities as lm-eval reads them.

Contract: a stream and a whole answer are made of the same pieces (`CompletionPieces`), so they never differ.
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from hidden_decoding.serve.answers import Completion, CompletionChoice, CompletionLogprobs, dump
from hidden_decoding.serve.errors import bad_request
from hidden_decoding.serve.generation import Generation, Job
from hidden_decoding.serve.lens_pieces import LensPieces
from hidden_decoding.serve.prompts import in_thread_if, is_long
from hidden_decoding.serve.sampling import answer_budget, sampling_params, structured_output
from hidden_decoding.serve.sse import EventStream, unless_disconnected
from hidden_decoding.serve.token_text import CharacterOffsets
from hidden_decoding.serve.usage import usage_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request

    from hidden_decoding.engines.local.outputs import Delta, TokenLogprob
    from hidden_decoding.serve.prompts import Prompt
    from hidden_decoding.serve.protocol import CompletionRequest
    from hidden_decoding.serve.state import ServerState

# JSON has no minus infinity; clients know this value from vLLM.
LOWEST_LOGPROB = -9999.0


async def answer_completion(request: CompletionRequest, http: Request, state: ServerState) -> Response:
    """The whole life of one request, up to the response."""
    model = state.check_model(request.model)
    state.note_unknown_fields(request)
    _check_fields(request)
    prompts = await in_thread_if(_is_long(request.prompt), state.prompts.completion, request.prompt)
    jobs = _jobs(request, prompts, state)
    work_on = _Answering(request, model, prompts, Generation(state, jobs), state)
    if not request.stream:
        return await unless_disconnected(http.receive, work_on.whole())
    patience = state.settings.keep_alive_seconds
    await unless_disconnected(http.receive, work_on.generation.open(patience))
    return EventStream(work_on.events(), close=work_on.generation.close, keep_alive_seconds=patience)


def _check_fields(request: CompletionRequest) -> None:
    n = request.n or 1
    if request.best_of is not None and request.best_of != n:
        raise bad_request("best_of", f"best_of is {request.best_of}; only best_of equal to n (here {n}) is supported")
    if request.suffix:
        raise bad_request("suffix", "suffix is not supported: these models continue a text, they do not fill a gap")
    if request.max_tokens == 0 and request.stream_lens:
        raise bad_request("stream_lens", "stream_lens speaks about generated tokens, and max_tokens is 0")
    if request.max_tokens == 0 and not request.echo:
        raise bad_request(
            "max_tokens", "max_tokens is 0; it must be at least 1, unless echo asks for the prompt itself"
        )


def _jobs(request: CompletionRequest, prompts: list[Prompt], state: ServerState) -> list[Job]:
    jobs = []
    for number, prompt in enumerate(prompts):
        count = len(prompt.token_ids)
        # Scoring a prompt alone still takes one step of the engine; its token is not shown.
        budget = answer_budget(request.max_tokens, state.limits, prompt_tokens=count) or 1
        for sample in range(request.n or 1):
            params = sampling_params(
                request,
                state.limits,
                max_tokens=budget,
                sample=sample,
                logprobs=request.logprobs,
                prompt_logprobs=request.logprobs if request.echo else None,
                logprob_start_len=(request.logprob_start_len or 0) if request.echo else 0,
                structured_output=structured_output(request.response_format),
            )
            jobs.append(Job(token_ids=prompt.token_ids, params=params, prompt=number, sample=sample))
    return jobs


class _Answering:
    """One request on its way: its pieces, as a stream or put together."""

    def __init__(
        self, request: CompletionRequest, model: str, prompts: list[Prompt], generation: Generation, state: ServerState
    ) -> None:
        self.request = request
        self.generation = generation
        self.head: dict[str, Any] = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self.shown_answer = request.max_tokens != 0
        self.pieces = [
            CompletionPieces(request, index, prompts[job.prompt], state) for index, job in enumerate(generation.jobs)
        ]

    async def whole(self) -> Response:
        """The answer in one body."""
        choices = [CompletionChoice(index=index, text="") for index in range(len(self.pieces))]
        generation = self.generation
        try:
            await generation.open()
            async for index, delta in generation:
                _add(choices[index], self.pieces[index].take(delta))
        finally:
            await generation.close()
        usage = usage_of(generation, shown_answer=self.shown_answer)
        return Response(dump(Completion(**self.head, choices=choices, usage=usage)), media_type="application/json")

    async def events(self) -> AsyncGenerator[str, None]:
        """The answer as JSON texts of chunks."""
        options = self.request.stream_options
        wants_usage = options is not None and bool(options.include_usage)
        running_usage = options is not None and bool(options.continuous_usage_stats)
        async for index, delta in self.generation:
            piece = self.pieces[index].take(delta)
            if piece.text or piece.logprobs or piece.token_ids or piece.finish_reason:
                usage = usage_of(self.generation, shown_answer=self.shown_answer) if running_usage else None
                yield dump(Completion(**self.head, choices=[piece], usage=usage), null_usage=wants_usage)
        if wants_usage:
            usage = usage_of(self.generation, shown_answer=self.shown_answer)
            yield dump(Completion(**self.head, choices=[], usage=usage))


class CompletionPieces:
    """Turns the engine's deltas of one sequence into pieces of its choice."""

    def __init__(self, request: CompletionRequest, index: int, prompt: Prompt, state: ServerState) -> None:
        self.request = request
        self.index = index
        self.prompt = prompt
        self.state = state
        self.offsets = CharacterOffsets()
        self.lens = LensPieces(state.token_texts)
        self.first = True

    def take(self, delta: Delta) -> CompletionChoice:
        """The piece that one delta makes; the first carries the prompt where that was asked for."""
        request = self.request
        piece = CompletionChoice(index=self.index, text="", finish_reason=None)
        logprobs = CompletionLogprobs() if request.logprobs is not None else None
        if self.first:
            self._take_prompt(piece, logprobs, delta)
        if request.max_tokens != 0:
            piece.text += delta.text
            if request.return_token_ids:
                piece.token_ids = list(delta.token_ids)
            if logprobs is not None:
                self._add_logprobs(logprobs, delta.logprobs)
        elif request.return_token_ids and self.first:
            piece.token_ids = []
        self.lens.take(delta)
        if delta.finish_reason is not None:
            piece.stream_lens = self.lens.answer()
            ended = delta.finish_reason if request.max_tokens != 0 else "length"
            piece.finish_reason = "length" if ended == "length" else "stop"
            piece.stop_reason = delta.stop_reason if request.max_tokens != 0 else None
        piece.logprobs = logprobs if logprobs is not None and logprobs.tokens else None
        self.first = False
        return piece

    def _take_prompt(self, piece: CompletionChoice, logprobs: CompletionLogprobs | None, delta: Delta) -> None:
        if self.request.return_token_ids:
            piece.prompt_token_ids = self.prompt.token_ids
        if not self.request.echo:
            return
        text = self.prompt.text
        piece.text = self.state.prompts.decode(self.prompt.token_ids) if text is None else text
        if logprobs is not None:
            entries = delta.prompt_logprobs or []
            for token_id, entry in zip(self.prompt.token_ids, entries, strict=True):
                self._add_entry(logprobs, token_id, entry)

    def _add_logprobs(self, logprobs: CompletionLogprobs, entries: list[TokenLogprob]) -> None:
        for entry in entries:
            self._add_entry(logprobs, entry.token_id, entry)

    def _add_entry(self, logprobs: CompletionLogprobs, token_id: int, entry: TokenLogprob | None) -> None:
        names = self.state.token_texts
        name = names.text(token_id)
        logprobs.tokens.append(name)
        logprobs.text_offset.append(self.offsets.next(names.raw(token_id)))
        if entry is None:  # nothing predicts the first token of a prompt
            logprobs.token_logprobs.append(None)
            logprobs.top_logprobs.append(None)
            return
        own = finite(entry.logprob)
        logprobs.token_logprobs.append(own)
        logprobs.top_logprobs.append({names.text(other): finite(value) for other, value in entry.top} | {name: own})


def _add(choice: CompletionChoice, piece: CompletionChoice) -> None:
    """Appends a piece to the choice it belongs to."""
    choice.text += piece.text
    if piece.logprobs is not None:
        whole = choice.logprobs = choice.logprobs or CompletionLogprobs()
        whole.tokens += piece.logprobs.tokens
        whole.token_logprobs += piece.logprobs.token_logprobs
        whole.top_logprobs += piece.logprobs.top_logprobs
        whole.text_offset += piece.logprobs.text_offset
    if piece.token_ids is not None:
        choice.token_ids = (choice.token_ids or []) + piece.token_ids
    choice.prompt_token_ids = choice.prompt_token_ids or piece.prompt_token_ids
    choice.stream_lens = piece.stream_lens
    choice.finish_reason, choice.stop_reason = piece.finish_reason, piece.stop_reason


def finite(logprob: float) -> float:
    """A log-probability that JSON can carry."""
    return max(logprob, LOWEST_LOGPROB)


def _is_long(prompt: object) -> bool:
    texts = prompt if isinstance(prompt, list) else [prompt]
    return is_long(text for text in texts if isinstance(text, str))
