"""Token ids to text, token by token: never half a character, never text that may turn out to be a stop string.

Contract: the texts handed out, put together, equal the tokenizer's decoding of all ids (cut at a stop string).
"""

from __future__ import annotations

from typing import Any

# How many ids of context a decoder needs before the new ones: enough for any tokenizer that merges over neighbours.
_CONTEXT_TOKENS = 6
# A character has at most 4 bytes, so at most 3 tokens can be waiting for the rest of one; more is text that is broken.
_REPLACEMENT = "\ufffd"


class Detokenizer:
    """Incremental decoding of one answer. Without a tokenizer it only counts and its text stays empty."""

    def __init__(
        self,
        tokenizer: Any | None,
        prompt_token_ids: list[int],
        *,
        stop: tuple[str, ...] = (),
        skip_special_tokens: bool = True,
        include_stop: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.stop = stop
        self.skip_special_tokens = skip_special_tokens
        self.include_stop = include_stop
        self.longest_stop = max((len(text) for text in stop), default=0)
        # ids[:prefix] are done; ids[prefix:read] were decoded with text handed on; ids[read:] wait for their rest.
        self.ids = prompt_token_ids[-_CONTEXT_TOKENS:]
        self.prefix, self.read = 0, len(self.ids)
        self.held = ""  # decoded, but may be the start of a stop string
        self.stopped_by: str | None = None

    def add(self, token_ids: list[int], *, final: bool = False) -> str:
        """Takes the next ids and returns the text that is now certain; with `final`, all that is left."""
        if self.tokenizer is None:
            return ""
        self.ids.extend(token_ids)
        self.held += self._decode_new(final)
        if (stopped := self._cut_at_stop()) is not None:
            return stopped
        sure = len(self.held) if final else len(self.held) - self._possible_stop()
        text, self.held = self.held[:sure], self.held[sure:]
        return text

    def _decode_new(self, final: bool) -> str:
        before = self._decode(self.ids[self.prefix : self.read])
        after = self._decode(self.ids[self.prefix :])
        if len(after) <= len(before) or (after.endswith(_REPLACEMENT) and not final):
            return ""
        self.prefix, self.read = self.read, len(self.ids)
        return after[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=self.skip_special_tokens) if self.tokenizer else ""

    def _cut_at_stop(self) -> str | None:
        """The text up to the earliest stop string in what is held, or None when there is none."""
        found = [(start, text) for text in self.stop if (start := self.held.find(text)) >= 0]
        if not found:
            return None
        start, self.stopped_by = min(found)
        text = self.held[: start + len(self.stopped_by)] if self.include_stop else self.held[:start]
        self.held = ""
        return text

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text that is the beginning of a stop string."""
        for size in range(min(self.longest_stop - 1, len(self.held)), 0, -1):
            if any(text.startswith(self.held[-size:]) for text in self.stop):
                return size
        return 0
