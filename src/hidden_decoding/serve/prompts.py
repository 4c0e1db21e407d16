"""From what a request brings (text, token ids, messages) to token ids.

Contract: every way in ends as a list of token ids inside the vocabulary, or as an `ApiError` 400 that says what to do.
Long texts are tokenized in a worker thread (`in_thread_if`), so that they do not hold up other requests' streams.

    >>> Prompts(tokenizer, chat_template=None, vocabulary=512).chat(request).token_ids
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from hidden_decoding.serve import reasoning
from hidden_decoding.serve.errors import bad_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from hidden_decoding.serve.protocol import ChatMessage, ChatRequest, TokenizeRequest

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

# Texts above this many characters are tokenized outside the event loop.
_LONG_TEXT = 20_000

# Arguments of the renderer itself, which `chat_template_kwargs` must not reach.
_RESERVED_KWARGS = {
    "add_generation_prompt",
    "chat_template",
    "continue_final_message",
    "conversation",
    "documents",
    "max_length",
    "messages",
    "padding",
    "processor_kwargs",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "tokenize",
    "tokenizer_kwargs",
    "tools",
    "truncation",
}


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt, ready for the engine. `text` is None when token ids came in."""

    token_ids: list[int]
    text: str | None = None

    @property
    def opens_thinking(self) -> bool:
        """Whether the template already wrote the tag that opens a block of thinking."""
        return self.text is not None and self.text.rstrip().endswith(reasoning.OPEN)


class Prompts:
    """Turns prompts and conversations into token ids. `chat_template` overrides the tokenizer's."""

    def __init__(self, tokenizer: Any | None, *, chat_template: str | None, vocabulary: int) -> None:
        self.tokenizer = tokenizer
        self.chat_template = chat_template or getattr(tokenizer, "chat_template", None)
        self.vocabulary = vocabulary

    def completion(self, prompt: str | list[str] | list[int] | list[list[int]]) -> list[Prompt]:
        """All prompts of a completion request."""
        items: list[Any] = list(prompt) if isinstance(prompt, list) else [prompt]
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
            items = [prompt]
        if not items:
            raise bad_request("prompt", "the prompt is empty; send text or at least one token id")
        return [self.text(item) if isinstance(item, str) else self._token_ids(item) for item in items]

    def text(
        self, text: str, *, add_special_tokens: bool = True, param: str = "prompt", allow_empty: bool = False
    ) -> Prompt:
        """Tokenizes a text."""
        if self.tokenizer is None:
            raise bad_request(param, "this checkpoint has no tokenizer; send a list of token ids as prompt")
        token_ids = list(self.tokenizer.encode(text, add_special_tokens=add_special_tokens))
        if not token_ids and not allow_empty:
            raise bad_request(param, f"the {param} is empty; it needs at least one token")
        return Prompt(token_ids=token_ids, text=text)

    def _token_ids(self, token_ids: list[int]) -> Prompt:
        if not token_ids:
            raise bad_request("prompt", "the prompt is empty; it needs at least one token")
        self.check(token_ids, "prompt")
        return Prompt(token_ids=token_ids)

    def check(self, token_ids: Sequence[int], param: str) -> None:
        """Refuses ids outside the vocabulary."""
        if token_ids and max(token_ids) >= self.vocabulary:
            raise bad_request(
                param, f"{param} holds token id {max(token_ids)}; the vocabulary has ids 0 to {self.vocabulary - 1}"
            )

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Token ids as text; empty without a tokenizer."""
        if self.tokenizer is None:
            return ""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens))

    def chat(self, request: ChatRequest | TokenizeRequest, *, add_special_tokens: bool = False) -> Prompt:
        """Renders a conversation with the chat template and tokenizes it."""
        if self.tokenizer is None or self.chat_template is None:
            raise bad_request(
                "messages",
                "this model has no chat template, so it cannot take messages; use /v1/completions with a prompt, "
                "or start the server with --chat-template FILE",
                code="no_chat_template",
            )
        goes_on = bool(request.continue_final_message)
        add_prompt = not goes_on if request.add_generation_prompt is None else request.add_generation_prompt
        messages = request.messages or []
        if goes_on and (add_prompt or messages[-1].role != "assistant"):
            raise bad_request(
                "continue_final_message",
                "continue_final_message needs a last message of the assistant and add_generation_prompt false",
            )
        kwargs = request.chat_template_kwargs or {}
        if reserved := sorted(_RESERVED_KWARGS & kwargs.keys()):
            raise bad_request("chat_template_kwargs", f"chat_template_kwargs cannot set {reserved[0]}")
        text = self._render(
            [_plain(message) for message in messages],
            tools=[tool.model_dump(exclude_none=True) for tool in request.tools or []] or None,
            add_generation_prompt=add_prompt,
            continue_final_message=goes_on,
            **kwargs,
        )
        return self.text(text, add_special_tokens=add_special_tokens, param="messages")

    def _render(self, messages: list[dict[str, Any]], **options: Any) -> str:
        assert self.tokenizer is not None, "the caller checks"
        try:
            text = self.tokenizer.apply_chat_template(
                messages, chat_template=self.chat_template, tokenize=False, **options
            )
        except Exception as error:  # a template is a program that came with the model: it can fail in any way
            log.info("the chat template refused a conversation", exc_info=True)
            raise bad_request(
                "messages", f"the model's chat template refused these messages: {_first_line(error)}"
            ) from error
        return str(text)


def is_long(texts: Iterable[str]) -> bool:
    """Whether tokenizing takes long enough to disturb others."""
    return sum(len(text) for text in texts) > _LONG_TEXT


async def in_thread_if(long: bool, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls `function`, in a worker thread when it will take `long`."""
    return await asyncio.to_thread(function, *args, **kwargs) if long else function(*args, **kwargs)


def _plain(message: ChatMessage) -> dict[str, Any]:
    """A message as chat templates read them: text content, arguments as objects, one name for the thinking."""
    plain: dict[str, Any] = {
        # Templates know no developer; OpenAI's newer name for the system role.
        "role": "system" if message.role == "developer" else message.role,
        "content": message.text,
    }
    if message.name is not None:
        plain["name"] = message.name
    if message.reasoning_text is not None:
        plain["reasoning_content"] = message.reasoning_text
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        plain["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": _arguments(call.function.arguments)},
            }
            for call in message.tool_calls
        ]
    return plain


def _arguments(text: str) -> Any:
    """Arguments of an earlier call as an object; text that is no JSON stays text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
