"""The stream lens of one answer, gathered while it is generated; sent with the piece that ends it.

>>> lens = LensPieces(state.token_texts)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hidden_decoding.serve.answers import StreamLensAnswer

if TYPE_CHECKING:
    from hidden_decoding.engines.local.outputs import Delta
    from hidden_decoding.modeling.stream_readout import TokenReadout
    from hidden_decoding.serve.token_text import TokenTexts


class LensPieces:
    """Readouts of one sequence; none, and no lens, unless the request asked for them."""

    def __init__(self, token_texts: TokenTexts) -> None:
        self.token_texts = token_texts
        self._readouts: list[TokenReadout] = []
        self._token_ids: list[int] = []

    def take(self, delta: Delta) -> None:
        """Keeps what the engine read for the tokens of a delta."""
        self._readouts += delta.readouts
        self._token_ids += delta.token_ids[: len(delta.readouts)]

    def answer(self) -> StreamLensAnswer | None:
        """The lens of all tokens so far."""
        if not self._readouts:
            return None
        from hidden_decoding.stream_lens.reading import assemble

        found = assemble(self._readouts, self._token_ids, lambda ids: self.token_texts.text(ids[0]))
        return StreamLensAnswer.model_validate(found.to_dict())
