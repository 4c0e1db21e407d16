"""The launch flags of the original release, as an unmodified SGLang of today takes them.

Contract: pure; imports no SGLang, and torch only when called. The fork's `--context-length` counted positions;
SGLang's counts tokens. Flags that were renamed since get their new names. Everything else is handed on as it is. For
`hidden-decoding serve --engine sglang -- FLAGS`.

    >>> todays_flags(["--context-length", "131072"], 8)[0]
    ['--context-length', '16384']
"""

from __future__ import annotations

from hidden_decoding.errors import ConfigError

CONTEXT = "--context-length"
# SGLang has CUDA graphs for prompts too by now; the old names meant those for decoding.
RENAMED = {
    "--cuda-graph-bs": "--cuda-graph-bs-decode",
    "--cuda-graph-max-bs": "--cuda-graph-max-bs-decode",
}


def todays_flags(flags: list[str], num_streams: int) -> tuple[list[str], list[str]]:
    """(flags for today's SGLang, lines to tell the user); raises `ConfigError` for a context that is no number.

    Both spellings, `--context-length 8` and `--context-length=8`, are read.
    """
    rewritten, lines, is_context = [], [], False
    for flag in flags:
        name, equals, value = flag.partition("=")
        if is_context or (name == CONTEXT and equals):
            tokens, line = context_in_tokens(flag if is_context else value, num_streams)
            rewritten.append(f"{CONTEXT}={tokens}" if equals else str(tokens))
            lines.append(line)
        elif name in RENAMED:
            rewritten.append(f"{RENAMED[name]}{equals}{value}")
            lines.append(f"{name} is called {RENAMED[name]} in SGLang by now")
        else:
            rewritten.append(flag)
        is_context = flag == CONTEXT
    if is_context:
        raise ConfigError(f"{CONTEXT} needs a number of positions after it")
    return rewritten, lines


def context_in_tokens(given: str, num_streams: int) -> tuple[int, str]:
    """(tokens, a line that says so) of a context that counts positions."""
    from hidden_decoding.streams import positions_to_tokens

    if not given.isdecimal() or not int(given):
        raise ConfigError(f"{CONTEXT} takes a number of positions, one or more, not {given!r}")
    tokens = positions_to_tokens(int(given), num_streams)
    return tokens, f"{CONTEXT} {given} counts positions; at n = {num_streams} streams SGLang gets {tokens} tokens"
