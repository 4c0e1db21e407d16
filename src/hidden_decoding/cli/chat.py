"""`hidden-decoding chat`: talk to a running server in the terminal.

$ hidden-decoding chat --base-url http://127.0.0.1:8080/v1 --system "Answer briefly."
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from hidden_decoding.errors import DependencyError

if TYPE_CHECKING:
    import argparse

    from hidden_decoding.serve.terminal_chat import Conversation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the server is, and how to begin."""
    default = "http://127.0.0.1:8080/v1"
    parser.add_argument(
        "--base-url", default=default, metavar="URL", help=f"any OpenAI-compatible server (default: {default})"
    )
    parser.add_argument("--model", metavar="NAME", help="name of the model (default: the first the server lists)")
    parser.add_argument("--api-key", metavar="KEY", help="sent as a Bearer token")
    parser.add_argument("--system", metavar="TEXT", help="system prompt to begin with")


def run(args: argparse.Namespace) -> int:
    """Reads lines until the input ends or /quit."""
    try:
        from hidden_decoding.serve.terminal_chat import HELP, ChatClient, Conversation
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"chat needs {error.name}, which is not installed; run: pip install 'hidden-decoding[serve]'"
        ) from error
    client = ChatClient(args.base_url, api_key=args.api_key, model=args.model)
    conversation = Conversation(client, out=sys.stdout, info=sys.stderr, system=args.system)
    if not args.quiet:
        print(f"{client.model} at {client.base_url}\n{HELP}", file=sys.stderr)
    _read_lines(conversation)
    return 0


def _read_lines(conversation: Conversation) -> None:
    prompt = ""
    if sys.stdin.isatty():
        prompt = "> "
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (importing it gives `input` line editing and history)
    while True:
        try:
            if not conversation.handle(input(prompt)):
                return
        except EOFError:
            return
