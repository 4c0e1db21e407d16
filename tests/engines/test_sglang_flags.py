"""The original release's launch flags: the context goes from positions to tokens, everything else stays."""

from __future__ import annotations

import shlex

import pytest

from hidden_decoding.engines.sglang.flags import in_tokens
from hidden_decoding.errors import ConfigError

ORIGINAL = shlex.split(
    "--chunked-prefill-size -1 --attention-backend fa3 --max-running-requests 32 --context-length 131072 "
    "--cuda-graph-bs 1 2 4 --mem-fraction-static 0.82"
)


@pytest.mark.parametrize(("n", "tokens"), [(1, 131072), (2, 65536), (8, 16384)])
def test_only_the_context_changes(n, tokens):
    flags, [line] = in_tokens(ORIGINAL, n)
    assert flags == [str(tokens) if flag == "131072" else flag for flag in ORIGINAL]
    assert line == f"--context-length 131072 counts positions; at n = {n} streams SGLang gets {tokens} tokens"


def test_the_other_spelling_and_none():
    assert in_tokens(["--context-length=100"], 8)[0] == ["--context-length=12"]
    assert in_tokens(["--port", "131072"], 8) == (["--port", "131072"], [])


@pytest.mark.parametrize("flags", [["--context-length", "many"], ["--context-length"], ["--context-length=0"]])
def test_a_context_that_is_no_number(flags):
    with pytest.raises(ConfigError, match="number of positions"):
        in_tokens(flags, 2)
