"""`hidden-decoding ui`: the chat page in front of any OpenAI-compatible server.

$ hidden-decoding ui --base-url http://localhost:8080/v1
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hidden_decoding.cli.options import add_dataclass_arguments, from_arguments
from hidden_decoding.ui.settings import UiConfig

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The fields of `UiConfig`."""
    add_dataclass_arguments(parser, UiConfig)


def run(args: argparse.Namespace) -> int:
    """Serves the page."""
    from hidden_decoding.ui.launch import run as serve_page

    return serve_page(from_arguments(UiConfig, args))
