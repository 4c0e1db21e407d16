"""Generated text of one chat answer -> deltas: thinking, content and tool calls told apart as they stream in.

Contract: a stream sends the deltas one by one, a whole answer is all of them put together (`joined`): the same path, so
the two never differ. Log-probabilities and token ids cover everything generated.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Literal

from hidden_decoding.serve.answers import (
    AnsweredMessage,
    AnsweredToolCall,
    CalledFunction,
    ChatChoice,
    ChatChunkChoice,
    ChatDelta,
    ChatLogprobs,
    ChatTokenLogprob,
    TopLogprob,
)
from hidden_decoding.serve.completions import finite
from hidden_decoding.serve.lens_pieces import LensPieces
from hidden_decoding.serve.reasoning import ReasoningSplitter
from hidden_decoding.serve.tool_calls import CallArguments, CallStart, Content, ToolCallParser

if TYPE_CHECKING:
    from hidden_decoding.engines.local.outputs import Delta, TokenLogprob
    from hidden_decoding.serve.answers import FinishReason
    from hidden_decoding.serve.token_text import TokenTexts
    from hidden_decoding.serve.tool_calls import Event


class ChatPieces:
    """State of one sequence. `tools` says how calls appear in the text; thinking is split unless a grammar wrote it."""

    def __init__(
        self,
        index: int,
        token_texts: TokenTexts,
        *,
        tools: Literal["none", "auto", "forced"],
        splits_thinking: bool,
        thinking_is_open: bool,
        with_logprobs: bool,
        with_token_ids: bool,
    ) -> None:
        self.index = index
        self.token_texts = token_texts
        self.splitter = ReasoningSplitter(opened=splits_thinking and thinking_is_open, enabled=splits_thinking)
        self.parser = None if tools == "none" else ToolCallParser(bare=tools == "forced")
        self.with_logprobs = with_logprobs
        self.with_token_ids = with_token_ids
        self.lens = LensPieces(token_texts)
        self.reasoning_tokens = 0
        self._undecided_tokens = 0
        self._started_calls = 0
        # Wait for the next piece that has something to show.
        self._logprobs: list[ChatTokenLogprob] = []
        self._token_ids: list[int] = []

    def role(self) -> ChatChunkChoice:
        """The first piece of every stream."""
        return ChatChunkChoice(index=self.index, delta=ChatDelta(role="assistant", content=""))

    def take(self, delta: Delta) -> list[ChatChunkChoice]:
        """The pieces one delta of the engine makes: none, one or several; the last one of all has the finish reason."""
        if self.with_logprobs:
            self._logprobs += [self._logprob(entry) for entry in delta.logprobs]
        if self.with_token_ids:
            self._token_ids += delta.token_ids
        self.lens.take(delta)
        before = self.splitter.state
        parts = self.splitter.feed(delta.text)
        self._count_reasoning(before, len(delta.token_ids))
        if delta.finish_reason is not None:
            parts += self.splitter.finish()
        deltas = []
        for kind, text in parts:
            if kind == "reasoning":
                deltas.append(ChatDelta(reasoning=text, reasoning_content=text))
            else:
                deltas += self._content(text)
        if delta.finish_reason is not None and self.parser is not None:
            deltas += [self._from_event(event) for event in self.parser.finish()]
        pieces = [self._piece(part) for part in deltas]
        if delta.finish_reason is not None:
            last = self._piece(ChatDelta())
            last.finish_reason, last.stop_reason = self._finish_reason(delta.finish_reason), delta.stop_reason
            last.stream_lens = self.lens.answer()
            pieces.append(last)
        return pieces

    def _piece(self, delta: ChatDelta) -> ChatChunkChoice:
        piece = ChatChunkChoice(index=self.index, delta=delta)
        if self._logprobs:
            piece.logprobs, self._logprobs = ChatLogprobs(content=self._logprobs), []
        if self.with_token_ids:
            piece.token_ids, self._token_ids = self._token_ids, []
        return piece

    def _content(self, text: str) -> list[ChatDelta]:
        if self.parser is None:
            return [ChatDelta(content=text)]
        return [self._from_event(event) for event in self.parser.feed(text)]

    def _from_event(self, event: Event) -> ChatDelta:
        if isinstance(event, Content):
            return ChatDelta(content=event.text)
        if isinstance(event, CallArguments):
            call = AnsweredToolCall(index=event.index, function=CalledFunction(arguments=event.text))
            return ChatDelta(tool_calls=[call])
        assert isinstance(event, CallStart), event
        self._started_calls += 1
        function = CalledFunction(name=event.name, arguments="")
        call = AnsweredToolCall(
            index=event.index, id=f"call_{uuid.uuid4().hex[:24]}", type="function", function=function
        )
        return ChatDelta(tool_calls=[call])

    def _finish_reason(self, reason: str) -> FinishReason:
        if reason == "length":
            return "length"
        return "tool_calls" if self._started_calls else "stop"

    def _count_reasoning(self, before: str, tokens: int) -> None:
        """Tokens count as thinking from the opening tag to the closing one; a tag may take several tokens."""
        if before == "start" == self.splitter.state:
            self._undecided_tokens += tokens
            return
        if "reasoning" in (before, self.splitter.state) or (before == "start" and self.splitter.found_block):
            self.reasoning_tokens += self._undecided_tokens + tokens
        self._undecided_tokens = 0

    def _logprob(self, entry: TokenLogprob) -> ChatTokenLogprob:
        return ChatTokenLogprob(
            **self._candidate(entry.token_id, entry.logprob).model_dump(),
            top_logprobs=[self._candidate(token_id, logprob) for token_id, logprob in entry.top],
        )

    def _candidate(self, token_id: int, logprob: float) -> TopLogprob:
        texts = self.token_texts
        return TopLogprob(token=texts.text(token_id), logprob=finite(logprob), bytes=list(texts.raw(token_id)))


def joined(pieces: list[ChatChunkChoice]) -> ChatChoice:
    """All pieces of one sequence as a whole answer."""
    deltas = [piece.delta for piece in pieces]
    content = "".join(delta.content or "" for delta in deltas)
    reasoning = "".join(delta.reasoning or "" for delta in deltas) or None
    calls: list[AnsweredToolCall] = []
    for call in (call for delta in deltas for call in delta.tool_calls or []):
        if call.id is not None:
            calls.append(AnsweredToolCall(id=call.id, type="function", function=call.function.model_copy()))
        else:
            function = calls[-1].function
            function.arguments = (function.arguments or "") + (call.function.arguments or "")
    logprobs = [entry for piece in pieces if piece.logprobs for entry in piece.logprobs.content or []]
    token_ids = [token_id for piece in pieces for token_id in piece.token_ids or []]
    last = pieces[-1]
    assert last.finish_reason is not None, "the engine ends every answer with a reason"
    return ChatChoice(
        index=last.index,
        message=AnsweredMessage(
            content=content or (None if calls else ""),
            reasoning=reasoning,
            reasoning_content=reasoning,
            tool_calls=calls or None,
        ),
        logprobs=ChatLogprobs(content=logprobs) if logprobs else None,
        finish_reason=last.finish_reason,
        stop_reason=last.stop_reason,
        token_ids=token_ids if last.token_ids is not None else None,
        stream_lens=last.stream_lens,
    )
