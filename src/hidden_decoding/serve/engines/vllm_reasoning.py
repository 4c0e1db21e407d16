"""vLLM's reasoning parser for our models: only a `<think>` block at the front is thinking, all else is content.

Contract: as `serve.reasoning`, streamed or not; content is never null when text other than thinking was generated. vLLM
loads this file by its path (`--reasoning-parser-plugin`); `flags` names it.

    $ hidden-decoding serve path/to/checkpoint --engine vllm
"""

# ruff: noqa: ARG002  (vLLM gives more than a parser of text needs)

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.reasoning import ReasoningParser, ReasoningParserManager

from hidden_decoding.serve.reasoning import CLOSE, OPEN, ReasoningSplitter

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hidden_decoding.serve.reasoning import Part


class ThinkBlockParser(ReasoningParser):  # type: ignore[misc]
    """One answer's parser."""

    # Asks vLLM to call `finish_streaming`, so that a held-back beginning of a tag is not lost.
    engine_based_streaming = True

    def __init__(self, tokenizer: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(tokenizer, *args, **kwargs)
        self.splitter = ReasoningSplitter()

    @property
    def reasoning_start_str(self) -> str:
        """The opening tag."""
        return OPEN

    @property
    def reasoning_end_str(self) -> str:
        """The closing tag."""
        return CLOSE

    def adjust_initial_state_from_prompt(self, prompt_token_ids: Sequence[int]) -> None:
        """Templates of models that always think end with an open block."""
        tail = self.model_tokenizer.decode(list(prompt_token_ids)[-8:])
        self.splitter = ReasoningSplitter(opened=tail.rstrip().endswith(OPEN))

    def is_reasoning_end(self, input_ids: Sequence[int]) -> bool:
        """Known from the text only."""
        return False

    def is_reasoning_end_streaming(self, input_ids: Sequence[int], delta_ids: Iterable[int]) -> bool:
        """Whether the answer has begun."""
        return self.splitter.state == "content"

    def has_engine_confirmed_reasoning_end(self) -> bool:
        """The same, as vLLM asks it of parsers that hold text back."""
        return self.splitter.state == "content"

    def extract_content_ids(self, input_ids: list[int]) -> list[int]:
        """The split is made in text."""
        return input_ids

    def extract_reasoning(self, model_output: str, request: Any) -> tuple[str | None, str | None]:
        """(thinking, answer) of a whole text; a closing tag without an opening one was opened by the prompt."""
        opened = CLOSE in model_output and OPEN not in model_output
        splitter = ReasoningSplitter(opened=opened)
        message = delta(splitter.feed(model_output) + splitter.finish())
        return (message.reasoning, message.content or "") if message else (None, model_output)

    def extract_reasoning_streaming(
        self,
        previous_text: str,
        current_text: str,
        delta_text: str,
        previous_token_ids: Sequence[int],
        current_token_ids: Sequence[int],
        delta_token_ids: Sequence[int],
    ) -> DeltaMessage | None:
        """What the next piece makes certain."""
        return delta(self.splitter.feed(delta_text))

    def finish_streaming(self) -> DeltaMessage | None:
        """What was held back."""
        return delta(self.splitter.finish())


def delta(parts: list[Part]) -> DeltaMessage | None:
    """Parts as vLLM's message; None when there are none."""
    texts = {kind: "".join(text for of, text in parts if of == kind) for kind, _ in parts}
    return DeltaMessage(**texts) if texts else None


ReasoningParserManager.register_module("hidden_decoding", module=ThinkBlockParser)
