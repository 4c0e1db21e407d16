"""The original release's launch flags: the context goes from positions to tokens, renamed flags get their new names."""

from __future__ import annotations

import shlex

import pytest

from hidden_decoding.engines.sglang.flags import todays_flags
from hidden_decoding.errors import ConfigError

ORIGINAL = shlex.split(
    "--chunked-prefill-size -1 --attention-backend fa3 --max-running-requests 32 --context-length 131072 "
    "--cuda-graph-bs 1 2 4 --mem-fraction-static 0.82"
)


@pytest.mark.parametrize(("n", "tokens"), [(1, 131072), (2, 65536), (8, 16384)])
def test_the_context_and_a_name_change(n, tokens):
    flags, [line, renamed] = todays_flags(ORIGINAL, n)
    changed = {"131072": str(tokens), "--cuda-graph-bs": "--cuda-graph-bs-decode"}
    assert flags == [changed.get(flag, flag) for flag in ORIGINAL]
    assert renamed == "--cuda-graph-bs is called --cuda-graph-bs-decode in SGLang by now"
    assert line == f"--context-length 131072 counts positions; at n = {n} streams SGLang gets {tokens} tokens"


def test_the_other_spelling_and_none():
    assert todays_flags(["--context-length=100"], 8)[0] == ["--context-length=12"]
    assert todays_flags(["--port", "131072"], 8) == (["--port", "131072"], [])
    assert todays_flags(["--cuda-graph-max-bs=4"], 8)[0] == ["--cuda-graph-max-bs-decode=4"]


@pytest.mark.parametrize("flags", [["--context-length", "many"], ["--context-length"], ["--context-length=0"]])
def test_a_context_that_is_no_number(flags):
    with pytest.raises(ConfigError, match="number of positions"):
        todays_flags(flags, 2)
