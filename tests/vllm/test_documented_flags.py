"""Every command for vLLM in the documentation is one that the installed vLLM understands."""

from __future__ import annotations

import itertools

import pytest
from vllm.entrypoints.cli.serve import make_arg_parser  # its home moved between 0.32 and 0.33
from vllm.utils.argparse_utils import FlexibleArgumentParser

from tests.documented_commands import documented_flags

COMMANDS = documented_flags("vllm")


@pytest.mark.parametrize("flags", COMMANDS, ids=" ".join)
def test_vllm_parses(flags):
    args = vars(make_arg_parser(FlexibleArgumentParser()).parse_args(["MODEL", *flags]))
    assert args["model_tag"] == "MODEL"
    for flag, value in itertools.pairwise([*flags, "--"]):
        if flag.startswith("--") and not value.startswith("--"):
            assert str(args[flag.removeprefix("--").replace("-", "_")]) == value


def test_there_are_commands():
    assert len(COMMANDS) >= 9


def test_a_flag_that_vllm_does_not_know_is_noticed():
    with pytest.raises(SystemExit):
        make_arg_parser(FlexibleArgumentParser()).parse_args(["MODEL", "--tensor-parallel-sizes", "2"])
