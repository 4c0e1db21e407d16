"""Every command for SGLang in the documentation, and the original launch line, is one that SGLang understands."""

from __future__ import annotations

import argparse
import shlex

import pytest
from sglang.srt.server_args import ServerArgs

from hidden_decoding.engines.sglang.flags import todays_flags
from tests.documented_commands import documented_flags

COMMANDS = documented_flags("sglang")
ORIGINAL = shlex.split(
    "--chunked-prefill-size -1 --attention-backend fa3 --max-running-requests 32 --context-length 131072 "
    "--cuda-graph-bs 1 2 4 8 16 32 --mem-fraction-static 0.82"
)


@pytest.fixture(scope="module")
def parser():
    made = argparse.ArgumentParser()
    ServerArgs.add_cli_args(made)
    return made


@pytest.mark.parametrize("flags", COMMANDS, ids=" ".join)
def test_sglang_parses(parser, flags):
    args = parser.parse_args(["--model-path", "MODEL", *flags])
    for index, flag in enumerate(flags):
        if flag in {"--tp-size", "--dp-size", "--nnodes", "--node-rank"}:
            assert getattr(args, flag[2:].replace("-", "_")) == int(flags[index + 1])


def test_there_are_commands():
    assert len(COMMANDS) >= 6


def test_the_original_launch_line(parser):
    flags, _ = todays_flags(ORIGINAL, 8)
    args = parser.parse_args(["--model-path", "MODEL", *flags])
    assert (args.chunked_prefill_size, args.attention_backend, args.max_running_requests) == (-1, "fa3", 32)
    assert (args.context_length, args.mem_fraction_static) == (16384, 0.82)
    assert args.cuda_graph_bs_decode == [1, 2, 4, 8, 16, 32]


def test_a_flag_that_sglang_does_not_know_is_noticed(parser):
    with pytest.raises(SystemExit):
        parser.parse_args(["--model-path", "MODEL", "--tp-sizes", "2"])
