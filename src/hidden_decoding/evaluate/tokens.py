"""Where a continuation's tokens begin, and how a context that is too long is cut: as lm-evaluation-harness does it.

Contract: pure functions over an `Encode`; everything counts tokens. The same for the local engine and over HTTP, so
that both score the same ids.
"""

from __future__ import annotations

from collections.abc import Callable

Encode = Callable[[str], list[int]]


def continuation_tokens(encode: Encode, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Token ids of both parts, read as one text. Spaces at the context's end belong to the continuation."""
    spaces = len(context) - len(context.rstrip())
    if spaces:
        continuation = context[-spaces:] + continuation
        context = context[:-spaces]
    before = encode(context)
    whole = encode(context + continuation)
    return before, whole[len(before) :]


def shortened(ids: list[int], most: int) -> tuple[list[int], int]:
    """The last `most` tokens, and how many went."""
    gone = max(0, len(ids) - most)
    return ids[gone:], gone
