"""Answers that follow a grammar (JSON, a JSON schema), by llguidance: which tokens may come next.

Contract: `Grammar.mask` closes the tokens that would leave the grammar, `accept` advances it; one object per request.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hidden_decoding.errors import DependencyError, RequestError

if TYPE_CHECKING:
    from torch import Tensor

# White space between the parts of JSON is allowed but bounded: small models may otherwise write nothing else for ever.
_JSON_DEFAULTS: Any = {"whitespace_flexible": True, "whitespace_pattern": r"[ \t\n\r]{0,12}"}


def load_grammar_tokenizer(tokenizer: Any, vocabulary: int, end_token_ids: list[int]) -> Any:
    """llguidance's form of a tokenizer; made once per engine (it reads the whole vocabulary)."""
    try:
        import llguidance.hf
    except ImportError as error:
        raise DependencyError(
            "structured output needs llguidance, which is not installed; run: pip install 'hidden-decoding[serve]'"
        ) from error
    return llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=end_token_ids)


class Grammar:
    """The state of one answer under a grammar."""

    def __init__(self, grammar_tokenizer: Any, wanted: dict[str, object], vocabulary: int) -> None:
        import llguidance
        import llguidance.torch

        schema = wanted.get("json_schema", {"type": "object"})
        try:
            text = llguidance.LLMatcher.grammar_from_json_schema(
                schema if isinstance(schema, str) else json.dumps(schema), defaults=_JSON_DEFAULTS
            )
            self.matcher = llguidance.LLMatcher(grammar_tokenizer, text, log_level=0)
        except (ValueError, TypeError) as error:
            raise RequestError(
                f"response_format holds a schema that cannot be used: {error}", param="response_format"
            ) from error
        if self.matcher.is_error():
            raise RequestError(
                f"response_format holds a schema that cannot be used: {self.matcher.get_error()}",
                param="response_format",
            )
        self.vocabulary = vocabulary
        self.bitmask = llguidance.torch.allocate_token_bitmask(1, vocabulary)

    def mask(self, logits_V: Tensor) -> None:
        """Sets the logits of impossible tokens to -inf, in place."""
        import llguidance.torch

        llguidance.torch.fill_next_token_bitmask(self.matcher, self.bitmask, 0)
        # Not llguidance's own kernel: that is a `torch.compile`, which stops all answers for half a minute once.
        open_V = torch.from_numpy(np.unpackbits(self.bitmask[0].numpy().view(np.uint8), bitorder="little"))
        logits_V.masked_fill_(open_V[: self.vocabulary].to(logits_V.device) == 0, float("-inf"))

    def accept(self, token_id: int) -> None:
        """Advances by the chosen token."""
        self.matcher.consume_token(token_id)

    @property
    def finished(self) -> bool:
        """Whether nothing can follow any more."""
        return bool(self.matcher.is_stopped())
