"""`hidden-decoding serve`: an OpenAI-compatible server over a checkpoint.

$ hidden-decoding serve path/to/checkpoint --port 8000
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hidden_decoding.cli.options import add_dataclass_arguments, add_trust_remote_code, from_arguments
from hidden_decoding.engines.local.engine_config import EngineConfig
from hidden_decoding.errors import ConfigError, DependencyError
from hidden_decoding.serve.engines.choice import choose_engine
from hidden_decoding.serve.settings import ServeConfig
from hidden_decoding.ui.page_files import local_page

if TYPE_CHECKING:
    import argparse

ENGINES = ("auto", "local", "vllm", "sglang")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the engine, and the fields of `ServeConfig` and `EngineConfig`."""
    parser.add_argument("model", metavar="MODEL", help="checkpoint directory or hub id")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit, when MODEL is a hub id")
    add_trust_remote_code(parser)
    parser.add_argument("--engine", choices=ENGINES, default="auto", help="what runs the model (default: auto)")
    add_dataclass_arguments(parser, ServeConfig)
    add_dataclass_arguments(parser, EngineConfig)
    parser.epilog = "Flags after a bare -- go to the engine as they are (vllm and sglang only)."


def run(args: argparse.Namespace) -> int:
    """Checks the flags, then loads and serves."""
    settings, engine_config = from_arguments(ServeConfig, args), from_arguments(EngineConfig, args)
    choice = choose_engine(args.engine)
    passed_on = getattr(args, "engine_flags", [])
    if choice.engine == "vllm":
        from hidden_decoding.serve.engines.vllm_server import serve_vllm

        return serve_vllm(args.model, settings, engine_config, choice, revision=args.revision, passed_on=passed_on)
    if choice.engine == "sglang":
        from hidden_decoding.serve.engines.sglang_server import serve_sglang

        return serve_sglang(args.model, settings, engine_config, choice, revision=args.revision, passed_on=passed_on)
    if passed_on:
        raise ConfigError(f"the local engine takes its flags before the bare --; move {' '.join(passed_on)} there")
    try:
        from hidden_decoding.serve.launch import serve
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"the server needs {error.name}, which is not installed; run: pip install 'hidden-decoding[serve]'"
        ) from error
    if args.engine == "auto":
        print(f"{'engine':<11}local ({choice.why})", flush=True)
    return serve(args.model, settings, engine_config, revision=args.revision, page=local_page)
