"""`python -m hidden_decoding.ui`: the chat page where only this package is installed, with the flags of the verb `ui`.

$ python -m hidden_decoding.ui --base-url http://localhost:8080/v1
"""

from __future__ import annotations

import argparse
import sys

from hidden_decoding.errors import HiddenDecodingError
from hidden_decoding.ui.launch import run
from hidden_decoding.ui.settings import UiConfig


def main() -> int:
    """Parses the flags and serves; misuse exits with 2."""
    parser = argparse.ArgumentParser(prog="python -m hidden_decoding.ui", description="The chat page.")
    defaults = UiConfig()
    parser.add_argument("--base-url", action="append", metavar="[NAME=]URL", help="an API (repeatable)")
    parser.add_argument("--host", default=defaults.host)
    parser.add_argument("--port", type=int, default=defaults.port)
    parser.add_argument("--api-key")
    parser.add_argument("--allow-any-base-url", action="store_true")
    parser.add_argument(
        "--allowed-host", action="append", metavar="NAME", help="a name it is reached under (repeatable)"
    )
    args = parser.parse_args()
    several = {name: tuple(getattr(args, name) or ()) for name in ("base_url", "allowed_host")}
    try:
        return run(UiConfig(**{**vars(args), **several}))
    except HiddenDecodingError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
