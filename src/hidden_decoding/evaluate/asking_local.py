"""The local engine in this process as the one who answers. Everything counts tokens.

Contract: answers come in the order they end, each once. A likelihood is that of the continuation's tokens after the
context's, tokenised as the harness does; a context that is too long loses its beginning, and the answer says how much.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hidden_decoding.engines.local.outputs import RequestOutput
from hidden_decoding.engines.local.sampling_params import SamplingParams
from hidden_decoding.errors import ConfigError
from hidden_decoding.evaluate.questions import Answer, Question
from hidden_decoding.evaluate.tokens import Encode, continuation_tokens, shortened

if TYPE_CHECKING:
    from hidden_decoding.engines.local.engine import LocalEngine

QUEUE_FACTOR = 2  # requests in the engine for each that can run, so that none waits for the next


class LocalAsker:
    """Feeds a `LocalEngine`, a window of requests at a time."""

    def __init__(self, engine: LocalEngine) -> None:
        self.engine = engine
        if engine.tokenizer is None:
            raise ConfigError("this checkpoint has no tokenizer; evaluation works on text, so put its tokenizer there")
        self.num_streams: int | None = engine.num_streams
        tokenizer: Any = engine.tokenizer
        self.encode: Encode = lambda text: list(tokenizer.encode(text, add_special_tokens=False))

    def describe(self) -> dict[str, Any]:
        """What answers, for the record."""
        return {"engine": "local", **self.engine.summary()}

    def check_chat(self) -> None:
        """Raises `ConfigError` when chats cannot be asked."""
        if not self.engine.tokenizer.chat_template:  # type: ignore[union-attr]
            raise ConfigError("this checkpoint has no chat template; `eval instruct` needs one, `eval base` does not")

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Answer]]:
        """All answers, as they come."""
        waiting = iter(questions)
        running: dict[str, tuple[Question, RequestOutput, int]] = {}
        most = QUEUE_FACTOR * self.engine.config.max_num_seqs
        last = time.perf_counter()
        try:
            while True:
                while len(running) < most and (question := next(waiting, None)) is not None:
                    request_id, output, truncated = self._start(question)
                    running[request_id] = (question, output, truncated)
                if not running:
                    return
                for delta in self.engine.step():
                    question, output, truncated = running[delta.request_id]
                    output.add(delta)
                    if output.finish_reason is not None:
                        del running[delta.request_id]
                        now = time.perf_counter()
                        yield question, _answer(question, output, truncated, now - last)
                        last = now
        finally:
            for request_id in running:
                self.engine.abort(request_id)

    def _start(self, question: Question) -> tuple[str, RequestOutput, int]:
        if question.continuation is not None:
            context, continuation = continuation_tokens(self.encode, question.prompt or "", question.continuation)
            ids, truncated = shortened(context + continuation, self.engine.max_model_len - 1)
            start = len(ids) - len(continuation)
            params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=1, logprob_start_len=start)
        else:
            ids = self.encode(self._text(question))
            room = self.engine.max_model_len - min(question.sampling["max_tokens"], self.engine.max_model_len // 2)
            ids, truncated = shortened(ids, room)
            params = SamplingParams(**{**question.sampling, "stop": tuple(question.sampling["stop"])})
        request_id = self.engine.add_request(ids, params)
        return request_id, RequestOutput(request_id=request_id, prompt_token_ids=ids), truncated

    def _text(self, question: Question) -> str:
        if question.messages is None:
            return question.prompt or ""
        return str(
            self.engine.tokenizer.apply_chat_template(  # type: ignore[union-attr]
                question.messages, add_generation_prompt=True, tokenize=False, enable_thinking=bool(question.thinking)
            )
        )


def _answer(question: Question, output: RequestOutput, truncated: int, wall_seconds: float) -> Answer:
    times = output.metrics
    seconds = times.finished - times.arrived if times and times.finished else 0.0
    common: dict[str, Any] = {
        "finish_reason": output.finish_reason,
        "prompt_tokens": len(output.prompt_token_ids),
        "cached_tokens": output.cached_tokens,
        "answer_tokens": len(output.token_ids),
        "truncated_tokens": truncated,
        "seconds": round(seconds, 4),
        "wall_seconds": round(wall_seconds, 5),
        "error": output.error,
    }
    if question.continuation is None or output.error:
        return Answer(text=output.text, **common)
    scored = [entry for entry in output.prompt_logprobs or [] if entry is not None]
    greedy = all(entry.top[0][0] == entry.token_id for entry in scored)
    return Answer(logprob=sum(entry.logprob for entry in scored), greedy=greedy, **common)
