"""From tasks to single questions: what is sent, with everything that could change the answer, under a key of its own.

Contract: a question's key is a hash of all that is sent, so an answer on disk belongs to exactly one question, and a
changed prompt, seed or setting is never answered from disk. Everything counts tokens. Used by `run`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hidden_decoding.evaluate.harness import ReadyTask
    from hidden_decoding.evaluate.pack import Pack, Suite

MOST_STOPS = 4  # OpenAI's limit; the harness cuts there too


@dataclass(frozen=True, kw_only=True)
class Question:
    """One thing to ask. `prompt` is text, `messages` a chat; with a `continuation` its likelihood is asked for."""

    suite: str
    task: str
    doc: int
    choice: int = 0
    sample: int = 0
    prompt: str | None = None
    messages: list[dict[str, str]] | None = None
    continuation: str | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    thinking: bool | None = None

    @property
    def key(self) -> str:
        """SHA-256 over all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back. `logprob` and `greedy` for a continuation, `text` otherwise; counts are tokens."""

    text: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    logprob: float | None = None
    greedy: bool | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0
    truncated_tokens: int = 0
    seconds: float = 0.0
    wall_seconds: float = 0.0
    error: str | None = None


@dataclass(kw_only=True)
class Item:
    """One document of a task with its questions: one per choice, or one per sample."""

    task: ReadyTask
    doc_id: int
    doc: dict[str, Any]
    questions: list[Question]


@dataclass(frozen=True, kw_only=True)
class Asking:
    """Settings that shape questions. `limit` counts documents per task."""

    limit: int | None = None
    seed: int = 0
    samples: int | None = None
    max_answer_tokens: int | None = None
    thinking: bool = False


def items_of(ready: ReadyTask, suite: Suite, pack: Pack, asking: Asking) -> Iterator[Item]:
    """The documents of a task, in order, each with all it takes to score it."""
    task = ready.task
    for doc_id, doc in task.doc_iterator(limit=asking.limit):
        context = task.fewshot_context(
            doc,
            num_fewshot=suite.shots,
            system_instruction=suite.system,
            apply_chat_template=pack.chat,
            chat_template=_messages_as_json if pack.chat else None,
            gen_prefix=task.doc_to_prefix(doc),
        )
        questions = list(_questions(ready, suite, pack, asking, doc_id, doc, context))
        yield Item(task=ready, doc_id=doc_id, doc=dict(doc), questions=questions)


def _questions(
    ready: ReadyTask, suite: Suite, pack: Pack, asking: Asking, doc_id: int, doc: Any, context: str
) -> Iterator[Question]:
    requests = ready.task.construct_requests(
        doc=doc, ctx=context, metadata=(ready.name, doc_id, 1), apply_chat_template=pack.chat
    )
    where: dict[str, Any] = {"suite": suite.name, "task": ready.name, "doc": doc_id}
    if suite.by_likelihood:
        for request in requests:
            prompt, continuation = request.args
            yield Question(**where, choice=request.idx, prompt=prompt, continuation=continuation)
        return
    own = suite.stops or (ready.task.config.generation_kwargs or {}).get("until") or []
    until = [] if pack.chat else list(own)[:MOST_STOPS]
    most = asking.max_answer_tokens or suite.max_answer_tokens
    for sample in range(asking.samples or suite.samples):
        sampling = {**pack.sampling, "max_tokens": most, "stop": until}
        if pack.sampling.get("temperature"):
            sampling["seed"] = _seed(asking.seed, ready.name, doc_id, sample)
        sent = {"messages": json.loads(context), "thinking": asking.thinking} if pack.chat else {"prompt": context}
        yield Question(**where, sample=sample, sampling=sampling, **sent)


def _messages_as_json(messages: list[dict[str, str]], **_: Any) -> str:
    """In place of a chat template: the server (or the local tokenizer) applies the model's own."""
    return json.dumps(messages)


def _seed(seed: int, task: str, doc_id: int, sample: int) -> int:
    """A seed per answer: samples differ, a repeated run does not."""
    digest = hashlib.sha256(f"{seed}/{task}/{doc_id}/{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
