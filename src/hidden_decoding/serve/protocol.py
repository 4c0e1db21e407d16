"""The requests the server understands, as pydantic models: OpenAI's fields, and the extensions vLLM made common.

Contract: types are checked strictly (no "5" for 5, no NaN), a field the server does not know is kept in `model_extra`
and never an error, `None` means "not given". Ranges that only the engine knows (context, vocabulary) are checked when
the request is turned into `SamplingParams` (`sampling.py`). All counts are in tokens.

    >>> CompletionRequest.model_validate({"prompt": "Once upon a time", "max_tokens": 16})
"""

# No `from __future__ import annotations` here: pydantic and FastAPI read the annotations at run time.
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

_LARGEST = 2**31 - 1
_SURROGATE = re.compile("[\ud800-\udfff]")

Count = Annotated[int, Field(ge=0, le=_LARGEST)]
TokenId = Annotated[int, Field(ge=0, le=_LARGEST)]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e9, le=1e9)]


class Message(BaseModel):
    """Base of everything that arrives as JSON."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())


class RequestBody(Message):
    """Base of whole request bodies."""

    model: str | None = Field(default=None, description="A served name, 'default', or nothing.")

    @model_validator(mode="before")
    @classmethod
    def _text_is_text(cls, data: Any) -> Any:
        """Half a surrogate pair is no character: it can be neither tokenized nor sent back."""
        if isinstance(data, dict):
            for name, value in data.items():
                if holds_surrogate(name) or holds_surrogate(value):
                    field = name.encode("ascii", "backslashreplace").decode()
                    raise PydanticCustomError(
                        "surrogate", "{param} holds half of a surrogate pair, which is no character", {"param": field}
                    )
        return data


class StreamOptions(Message):
    """What a stream carries besides text."""

    include_usage: bool | None = Field(default=None, description="Send a last chunk with the usage.")
    continuous_usage_stats: bool | None = Field(default=None, description="Send the usage so far with every chunk.")


class GenerationRequest(RequestBody):
    """Fields that completions and chat share."""

    max_tokens: Count | None = Field(default=None, description="Most tokens to generate; else the rest of the context.")
    temperature: Number | None = None
    top_p: Number | None = None
    top_k: Annotated[int, Field(ge=-1, le=_LARGEST)] | None = Field(
        default=None, description="0 or -1 keeps all tokens."
    )
    min_p: Number | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: str | Annotated[list[str], Field(max_length=64)] | None = None
    stop_token_ids: list[TokenId] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    repetition_penalty: Number | None = None
    logit_bias: dict[str, Number] | None = Field(default=None, description="Token id (as a string) to added logit.")
    min_tokens: Count | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    return_token_ids: bool | None = Field(default=None, description="Add token_ids to each choice.")
    stream_lens: bool | None = Field(
        default=None,
        description="Add to each choice what every stream would have predicted, for its first 1,024 tokens.",
    )

    @model_validator(mode="after")
    def _streaming_agrees(self) -> "GenerationRequest":
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("combination", "stream_options needs 'stream': true", {"param": "stream_options"})
        return self


class ResponseFormat(Message):
    """The shape of the answer: free text, any JSON object, or JSON that follows a schema."""

    class JsonSchema(Message):
        """A named JSON schema."""

        name: str | None = None
        schema_: dict[str, Any] | bool = Field(alias="schema")
        strict: bool | None = None

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _schema_is_there(self) -> "ResponseFormat":
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("type json_schema needs a json_schema object with a schema")
        return self


class CompletionRequest(GenerationRequest):
    """`POST /v1/completions`."""

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]] = Field(
        description="Text, token ids, or a list of either."
    )
    best_of: Annotated[int, Field(ge=1)] | None = Field(default=None, description="Refused unless equal to n.")
    echo: bool | None = Field(default=None, description="Put the prompt before the answer.")
    logprobs: Annotated[int, Field(ge=0, le=100)] | None = None
    logprob_start_len: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="With echo and logprobs: first prompt token to score. Earlier ones have null, and cost nothing "
        "when the prefix cache holds them.",
    )
    suffix: str | None = Field(default=None, description="Refused unless empty: the models do not insert.")
    response_format: ResponseFormat | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_kind_of_prompt(cls, prompt: Any) -> Any:
        """One clear message in place of one per shape the union allows."""
        if isinstance(prompt, str) or (isinstance(prompt, list) and _one_kind(prompt)):
            return prompt
        raise ValueError("must be text, a list of token ids, a list of texts or a list of lists of token ids")


def _one_kind(items: list[Any]) -> bool:
    kinds = {type(item) for item in items}
    inner = {type(part) for item in items if isinstance(item, list) for part in item}
    return len(kinds) <= 1 and kinds <= {str, int, list} and inner <= {int}


class TextPart(Message):
    """One part of a message; only text is understood."""

    type: Literal["text"]
    text: str


class FunctionCall(Message):
    """A call the model made earlier; `arguments` is JSON as text."""

    name: str
    arguments: str = "{}"


class ToolCall(Message):
    """A tool call inside an assistant message of the history."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(Message):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "ChatMessage":
        if self.content is None and not (self.role == "assistant" and (self.tool_calls or self.reasoning_text)):
            raise ValueError(f"a {self.role} message needs content")
        return self

    @property
    def reasoning_text(self) -> str | None:
        """The thinking, under either of its two names."""
        return self.reasoning_content or self.reasoning

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class FunctionDefinition(Message):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Message):
    """A tool on offer."""

    type: Literal["function"]
    function: FunctionDefinition


class NamedToolChoice(Message):
    """`tool_choice` that demands one function."""

    class Named(Message):
        """Its name."""

        name: str

    type: Literal["function"]
    function: Named


class TemplateFields(Message):
    """How a conversation becomes a prompt."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    tools: list[Tool] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class ChatRequest(GenerationRequest, TemplateFields):
    """`POST /v1/chat/completions`."""

    max_completion_tokens: Count | None = Field(default=None, description="Wins over max_tokens.")
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedToolChoice | None = None


class TokenizeRequest(RequestBody):
    """`POST /tokenize`: a prompt, or messages as chat would render them."""

    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    tools: list[Tool] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError("combination", "give either prompt or messages", {"param": "prompt"})
        return self


class DetokenizeRequest(RequestBody):
    """`POST /detokenize`."""

    tokens: list[TokenId]


def holds_surrogate(value: Any, levels: int = 100) -> bool:
    """Whether any text inside a JSON value has a lone surrogate; a value nested deeper than `levels` is refused."""
    if isinstance(value, str):
        return not value.isascii() and _SURROGATE.search(value) is not None
    if isinstance(value, list | dict) and levels == 0:
        raise PydanticCustomError("nesting", "the body is nested too deeply; at most 100 levels are read")
    if isinstance(value, list):
        return any(holds_surrogate(item, levels - 1) for item in value if not isinstance(item, int | float))
    if isinstance(value, dict):
        return any(holds_surrogate(key) or holds_surrogate(item, levels - 1) for key, item in value.items())
    return False
