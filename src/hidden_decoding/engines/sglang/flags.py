"""The launch flags of the original release, in the units of an unmodified SGLang.

Contract: pure; imports no SGLang, and torch only when called. The fork's `--context-length` counted positions;
SGLang's counts tokens. Everything else is handed on as it is. For `hidden-decoding serve --engine sglang -- FLAGS`.

    >>> in_tokens(["--context-length", "131072"], 8)[0]
    ['--context-length', '16384']
"""

from __future__ import annotations

from hidden_decoding.errors import ConfigError

CONTEXT = "--context-length"


def in_tokens(flags: list[str], num_streams: int) -> tuple[list[str], list[str]]:
    """(flags with the context in tokens, lines to tell the user); raises `ConfigError` for a context that is no number.

    Both spellings, `--context-length 8` and `--context-length=8`, are read.
    """
    from hidden_decoding.streams import positions_to_tokens

    rewritten, lines, is_value = [], [], False
    for flag in flags:
        name, equals, value = flag.partition("=")
        given = flag if is_value else value if name == CONTEXT and equals else None
        is_value = flag == CONTEXT
        if given is None:
            rewritten.append(flag)
            continue
        if not given.isdecimal() or not int(given):
            raise ConfigError(f"{CONTEXT} takes a number of positions, one or more, not {given!r}")
        tokens = positions_to_tokens(int(given), num_streams)
        rewritten.append(f"{CONTEXT}={tokens}" if equals else str(tokens))
        lines.append(f"{CONTEXT} {given} counts positions; at n = {num_streams} streams SGLang gets {tokens} tokens")
    if is_value:
        raise ConfigError(f"{CONTEXT} needs a number of positions after it")
    return rewritten, lines
