"""The answers the server sends, as pydantic models: OpenAI's objects with the extensions that clients read.

Contract: what is declared in `/openapi.json` is what is sent; fields that are `None` and that OpenAI leaves out are
left out (`dump`). All counts are in tokens.
"""

# No `from __future__ import annotations` here: pydantic and FastAPI read the annotations at run time.
import json
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "abort"]


class Answer(BaseModel):
    """Base of everything that is sent."""

    model_config = ConfigDict(protected_namespaces=())
    # Fields that clients expect to be there even when there is nothing to say.
    sent_as_null: ClassVar[frozenset[str]] = frozenset()


class ErrorDetail(Answer):
    """What went wrong."""

    sent_as_null = frozenset({"param", "code"})

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(Answer):
    """Every answer that is not a success."""

    error: ErrorDetail


class PromptTokensDetails(Answer):
    """Prompt tokens whose K/V was already there."""

    cached_tokens: int = 0


class CompletionTokensDetails(Answer):
    """Generated tokens that were thinking."""

    reasoning_tokens: int = 0


class UsageMetrics(Answer):
    """Times of this request."""

    ttft_ms: float | None = Field(default=None, description="Milliseconds from arrival to the first token.")
    tokens_per_second: float | None = Field(default=None, description="Tokens a second after the first token.")


class Usage(Answer):
    """Token counts of a request."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: PromptTokensDetails = Field(default_factory=PromptTokensDetails)
    completion_tokens_details: CompletionTokensDetails = Field(default_factory=CompletionTokensDetails)
    metrics: UsageMetrics | None = None


class CompletionLogprobs(Answer):
    """Parallel lists, one entry per token; `text_offset` counts characters from the start of the choice's text."""

    tokens: list[str] = Field(default_factory=list)
    token_logprobs: list[float | None] = Field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = Field(default_factory=list)
    text_offset: list[int] = Field(default_factory=list)


class LensGuess(Answer):
    """A token that a stream would have predicted."""

    token_id: int
    token: str
    probability: float


class LensStream(Answer):
    """One stream's prediction; `agrees` says that its likeliest token is the last stream's, which is the model's."""

    entropy_bits: float
    agrees: bool
    top: list[LensGuess]


class LensToken(Answer):
    """A token of the answer, and what each stream of the token before it would have predicted."""

    token_id: int
    token: str
    streams: list[LensStream]


class StreamLensAnswer(Answer):
    """The hidden streams of an answer; `cosine[layer][stream]` is the mean cosine with the same token's last stream."""

    streams: int
    layers: list[str]
    tokens: list[LensToken]
    cosine: list[list[float]]


class CompletionChoice(Answer):
    """One answer, or one piece of it in a stream."""

    sent_as_null = frozenset({"logprobs", "finish_reason"})

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    stream_lens: StreamLensAnswer | None = None


class Completion(Answer):
    """`POST /v1/completions`, and each chunk of its stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class TopLogprob(Answer):
    """One candidate for a token."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class ChatTokenLogprob(TopLogprob):
    """One token of the answer, and the candidates for its place."""

    top_logprobs: list[TopLogprob] = Field(default_factory=list)


class ChatLogprobs(Answer):
    """Log-probabilities of all generated tokens, thinking and tool calls included."""

    content: list[ChatTokenLogprob] | None = None
    refusal: list[ChatTokenLogprob] | None = None


class CalledFunction(Answer):
    """Name, and arguments as JSON text; in a stream either may be missing."""

    name: str | None = None
    arguments: str | None = None


class AnsweredToolCall(Answer):
    """A tool call; in a stream `index` says to which call a piece belongs."""

    index: int | None = None
    id: str | None = None
    type: Literal["function"] | None = None
    function: CalledFunction


class AnsweredMessage(Answer):
    """The answer. Thinking is sent under both names that clients read."""

    sent_as_null = frozenset({"content", "refusal"})

    role: Literal["assistant"] = "assistant"
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[AnsweredToolCall] | None = None


class ChatChoice(Answer):
    """One answer."""

    sent_as_null = frozenset({"logprobs"})

    index: int
    message: AnsweredMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None
    stream_lens: StreamLensAnswer | None = None


class ChatCompletion(Answer):
    """`POST /v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] | None = None


class ChatDelta(Answer):
    """One piece of an answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[AnsweredToolCall] | None = None


class ChatChunkChoice(Answer):
    """One piece of one answer."""

    sent_as_null = frozenset({"logprobs", "finish_reason"})

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None
    stream_lens: StreamLensAnswer | None = None


class ChatChunk(Answer):
    """Each event of a chat stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    prompt_token_ids: list[int] | None = None


class ModelCard(Answer):
    """One served model; `max_model_len` is in tokens."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "hidden-decoding"
    max_model_len: int
    streams: int
    stream_lens: Literal[True] = True  # the request field `stream_lens` is answered; the page reads it here


class ModelList(Answer):
    """`GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Tokens(Answer):
    """`POST /tokenize`."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class Text(Answer):
    """`POST /detokenize`."""

    prompt: str


class Health(Answer):
    """`GET /health`."""

    status: Literal["ok"] = "ok"


class Version(Answer):
    """`GET /version`."""

    version: str


class Pointer(Answer):
    """`GET /`: where things are."""

    name: str
    version: str
    model: str
    routes: list[str]


def dump(answer: Answer, *, null_usage: bool = False) -> str:
    """JSON text without unset fields; `null_usage` sends an unset usage as null, as chunks before the last do."""
    plain = _plain(answer)
    if null_usage:
        plain.setdefault("usage", None)
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Answer):
        return {name: _plain(item) for name, item in value if item is not None or name in value.sent_as_null}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
