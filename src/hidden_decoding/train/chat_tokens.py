"""Conversations -> tokens and labels: the model's own chat template decides the text, and only assistants carry loss.

Contract: the text is exactly what the checkpoint's template renders. Of each assistant turn that carries loss, labels
hold everything the model must produce itself at inference: all that follows the header `<|im_start|>assistant\\n` (a
think block and tool calls too) up to and including `<|im_end|>`. All else is -100: headers, system, user, tool results,
the line end after `<|im_end|>`.

How the mask is made, and why it is exact. Published Qwen3 templates have no generation markers, and rendering a prefix
of the messages is no prefix of rendering all (thinking is dropped from earlier turns). But ChatML text parts in one
way only: a conversation whose own texts hold a control token (`<|im_start|>`, ...) is refused, so each control token in
the rendered text was put there by the template, and the turns between them are the template's turns. They must be as
many assistant turns as the conversation has, or the template is refused. Each piece is tokenised on its own, because
that is where inference cuts: the prompt's ids, then the answer's.

With `turns="each"` every assistant turn becomes a sample of its own, rendered as at inference when that turn is due.
That is what teaches reasoning in conversations of several turns, where the template keeps it for the last one only.

Place in the flow: after `conversations.py`, before `sft_data.py`. Proven by brute force on the
real tokenizer in tests/train/test_chat_tokens.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hidden_decoding.errors import ConfigError
from hidden_decoding.train.conversations import Conversation, UnusableError
from hidden_decoding.train.data import NO_TARGET

START, END = "<|im_start|>", "<|im_end|>"
ASSISTANT = f"{START}assistant\n"
PROBE = (
    {"role": "system", "content": "Alpha."},
    {"role": "user", "content": "Beta?"},
    {"role": "assistant", "content": "Gamma."},
    {"role": "user", "content": "Delta?"},
    {"role": "assistant", "content": "Epsilon."},
)


@dataclass(frozen=True)
class Sample:
    """Token ids and labels of one training sample, each [T] (a label stands at its own token; the loss shifts), and
    the UTF-8 bytes of the text that is learned."""

    ids: list[int]
    labels: list[int]
    text_bytes: int

    @property
    def learned(self) -> int:
        """Tokens that carry loss."""
        return sum(label != NO_TARGET for label in self.labels)


@dataclass(frozen=True)
class Piece:
    """A stretch of rendered text that is tokenised on its own; `turn` is the number of the assistant turn it is."""

    text: str
    turn: int | None = None


class ChatTokens:
    """Turns conversations into samples with one tokenizer and its chat template."""

    def __init__(self, tokenizer: Any, *, turns: str = "all") -> None:
        if getattr(tokenizer, "chat_template", None) is None:
            raise ConfigError(
                "the model's tokenizer has no chat template, and chats cannot be rendered without one; put the "
                "template of the Instruct model (chat_template.jinja) beside the tokenizer"
            )
        self.tokenizer, self.turns = tokenizer, turns
        self.controls = sorted(map(str, tokenizer.all_special_tokens), key=len, reverse=True)
        self.controls += [text for text in tokenizer.get_added_vocab() if text.startswith("<|")]
        self.control = re.compile("|".join(map(re.escape, dict.fromkeys(self.controls))))
        self._check_template()

    def _check_template(self) -> None:
        """Refuses a template that is not ChatML, on a conversation whose answers are known."""
        for text in (START, END):
            if self.tokenizer.convert_tokens_to_ids(text) not in self.tokenizer.get_added_vocab().values():
                raise ConfigError(f"the tokenizer has no token {text}: only ChatML templates (Qwen's) are known here")
        answers = [piece.text for piece in pieces(self.render(PROBE)) if piece.turn is not None]
        if len(answers) != 2 or not (answers[0].endswith(f"Gamma.{END}") and answers[1].endswith(f"Epsilon.{END}")):
            raise ConfigError(
                "the tokenizer's chat template is not ChatML: where answers begin and end cannot be told, so loss on "
                "assistant turns is impossible; use a template whose turns are <|im_start|>role ... <|im_end|>"
            )

    def render(self, messages: Any, tools: Any = (), **options: Any) -> str:
        """The template's text."""
        rendered: str = self.tokenizer.apply_chat_template(
            list(messages), tools=list(tools) or None, tokenize=False, **options
        )
        return rendered

    def samples(self, conversation: Conversation) -> Iterator[Sample]:
        """The conversation as one sample, or as one per assistant turn; raises `UnusableError`."""
        self._check_texts(conversation)
        numbers = [i for i, message in enumerate(conversation.messages) if message["role"] == "assistant"]
        wanted = [turn for turn, i in enumerate(numbers) if conversation.learned[i]]
        if self.turns == "all":
            yield self._sample(conversation, len(conversation.messages), len(numbers), set(wanted))
        else:
            for turn in wanted:
                yield self._sample(conversation, numbers[turn] + 1, turn + 1, {turn})

    def drops_reasoning(self, conversation: Conversation) -> int:
        """Assistant turns whose reasoning the template leaves out of the whole conversation's text."""
        text = self.render(conversation.messages, conversation.tools)
        reasonings = [message.get("reasoning_content", "").strip("\n") for message in conversation.messages]
        return sum(bool(reasoning) and reasoning not in text for reasoning in reasonings)

    def _check_texts(self, conversation: Conversation) -> None:
        text = json.dumps([conversation.messages, conversation.tools], ensure_ascii=False)
        if found := self.control.search(text):
            raise UnusableError(
                f"holds the control token {found.group()} as text; the tokenizer would read it as the beginning or "
                "end of a turn, so turns could be forged"
            )

    def _sample(self, conversation: Conversation, messages: int, turns: int, wanted: set[int]) -> Sample:
        try:
            parts = pieces(self.render(conversation.messages[:messages], conversation.tools))
        except Exception as error:  # jinja's errors, and whatever a template does with odd messages
            raise UnusableError(f"is refused by the chat template: {type(error).__name__} {error}") from error
        found = sum(part.turn is not None for part in parts)
        if found != turns:
            raise UnusableError(f"has {turns} assistant turn(s), but the chat template renders {found}")
        ids: list[int] = []
        labels: list[int] = []
        text_bytes = 0
        for part in parts:
            piece: list[int] = self.tokenizer(part.text, add_special_tokens=False)["input_ids"]
            learned = part.turn in wanted
            ids += piece
            labels += piece if learned else [NO_TARGET] * len(piece)
            text_bytes += len(part.text.removesuffix(END).encode()) if learned else 0
        return Sample(ids, labels, text_bytes)


def pieces(text: str) -> list[Piece]:
    """Rendered ChatML, parted: what stands before an answer, the answer with its end token, and so on."""
    parts, at, turn = [], 0, 0
    while (header := text.find(ASSISTANT, at)) >= 0:
        begin = header + len(ASSISTANT)
        end = text.find(END, begin)
        if end < 0:
            break
        end += len(END)
        parts += [Piece(text[at:begin]), Piece(text[begin:end], turn)]
        at, turn = end, turn + 1
    return [*parts, Piece(text[at:])] if text[at:] else parts
