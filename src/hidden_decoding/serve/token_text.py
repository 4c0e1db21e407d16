"""Single tokens as text and bytes, for log-probabilities and `/tokenize`: a token may be half a character.

Contract: the bytes of consecutive tokens, put together, are the UTF-8 of their text. A token whose bytes are no text of
their own is written `bytes:\\xe4\\xbd`, OpenAI's way, so that different tokens never share a name.

    >>> TokenTexts(tokenizer).text(42)
"""

from __future__ import annotations

import codecs
from typing import Any


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE's one character per byte: printable Latin-1 is itself, the rest follows from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    return alphabet | {chr(256 + index): byte for index, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()


class TokenTexts:
    """Token id -> bytes and printable name. Without a tokenizer the name is `token_id:7`."""

    def __init__(self, tokenizer: Any | None) -> None:
        self.tokenizer = tokenizer
        self._known: dict[int, bytes] = {}
        self._added = {} if tokenizer is None else {i: str(t) for i, t in tokenizer.added_tokens_decoder.items()}
        decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
        self._byte_level = decoder is not None and "ByteLevel" in repr(decoder)

    def raw(self, token_id: int) -> bytes:
        """The token's UTF-8 bytes, perhaps not whole characters."""
        if token_id not in self._known:
            self._known[token_id] = self._make(token_id)
        return self._known[token_id]

    def text(self, token_id: int) -> str:
        """The token's name in answers."""
        if self.tokenizer is None:
            return f"token_id:{token_id}"
        raw = self.raw(token_id)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def _make(self, token_id: int) -> bytes:
        if self.tokenizer is None:
            return b""
        if token_id in self._added:
            return self._added[token_id].encode()
        piece = self.tokenizer.convert_ids_to_tokens(token_id)
        if piece is None:  # an id of the embedding table that the tokenizer does not use
            return b""
        if self._byte_level and all(character in _ALPHABET for character in piece):
            return bytes(_ALPHABET[character] for character in piece)
        return str(self.tokenizer.decode([token_id])).encode()


class CharacterOffsets:
    """Where each token begins in the text, in characters; half characters count when they are whole."""

    def __init__(self, start: int = 0) -> None:
        self.position = start
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def next(self, raw: bytes) -> int:
        """The offset of a token, and on to the one after it."""
        start = self.position
        self.position += len(self._decoder.decode(raw))
        return start
