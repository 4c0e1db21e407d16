"""Every command for vLLM in the documentation is one that the installed vLLM understands."""

from __future__ import annotations

import pytest
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

from tests.documented_commands import documented_flags

COMMANDS = documented_flags("vllm")


@pytest.mark.parametrize("flags", COMMANDS, ids=" ".join)
def test_vllm_parses(flags):
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", "MODEL", *flags])
    wanted = {
        flag.removeprefix("--").replace("-", "_"): flags[i + 1 : i + 2] for i, flag in enumerate(flags) if "--" in flag
    }
    engine = AsyncEngineArgs.from_cli_args(args)
    assert engine.tensor_parallel_size == int(wanted["tensor_parallel_size"][0])
    for name in ("nnodes", "node_rank", "data_parallel_size"):
        if name in wanted:
            assert getattr(engine, name) == int(wanted[name][0])


def test_there_are_commands():
    assert len(COMMANDS) >= 9


def test_a_flag_that_vllm_does_not_know_is_noticed():
    with pytest.raises(SystemExit):
        make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", "MODEL", "--tensor-parallel-sizes", "2"])
