"""Writes docs/bad-inputs.md: every row of `tests/serve/bad_inputs.py` sent to a real server, and what it answered.

Contract: the page follows from the table and the server alone; `--check` writes nothing and exits with 1 when the page
is not what the server says today.

    $ python docs/generate_bad_inputs.py --check
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx

from tests.serve.bad_inputs import BAD_INPUTS, BadInput, content_of

PAGE = Path(__file__).with_name("bad-inputs.md")
SHOWN_CHARACTERS = 60
HEAD = """# Bad inputs and what the server answers

Made by `python docs/generate_bad_inputs.py` from `tests/serve/bad_inputs.py`, by sending each to a server whose model
has a context of 256 tokens and a vocabulary of 512. A test sends them too and compares this page. Every answer has
OpenAI's shape, `{"error": {"message", "type", "param", "code"}}`; *field* is its `param`.
"""


def page(http: httpx.Client) -> str:
    """The whole page."""
    parts = [HEAD]
    for route in dict.fromkeys(bad.route for bad in BAD_INPUTS):
        parts += [f"## `POST {route}`\n", "| field | value tried | status | message |", "|---|---|---|---|"]
        parts += [*(row(http, bad) for bad in BAD_INPUTS if bad.route == route), ""]
    return "\n".join(parts)


def row(http: httpx.Client, bad: BadInput) -> str:
    """One line of a table, with what the server really said."""
    answer = http.post(bad.route, content=content_of(bad), headers={"content-type": "application/json"})
    error = answer.json()["error"]
    field = f"`{error['param']}`" if error["param"] else "(the body)"
    return f"| {field} | {code(tried(bad))} | {answer.status_code} | {cell(error['message'])} |"


def tried(bad: BadInput) -> str:
    """What differs from a good request, short."""
    if isinstance(bad.body, str):
        return shortened(bad.body) or "(nothing)"
    changes = {key: "(left out)" if not _sendable(value) else json.dumps(value) for key, value in bad.body.items()}
    return ", ".join(f"{key}: {shortened(value)}" for key, value in changes.items())


def _sendable(value: Any) -> bool:
    return type(value) is not object  # `REMOVED`, which takes the field away


def shortened(text: str) -> str:
    """At most `SHOWN_CHARACTERS`, with the length of what is left out."""
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[: SHOWN_CHARACTERS - 20]}… ({len(text)} characters)"


def code(text: str) -> str:
    """Code in a table: pipes escaped, the whole in backticks that its content does not hold."""
    return f"`{cell(text)}`" if "`" not in text else cell(text)


def cell(text: str) -> str:
    """Text that stays within its cell."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def fresh_page() -> str:
    """The page from a server of its own."""
    from tests.serve.support import running_server
    from tests.support import save_tiny_checkpoint

    with tempfile.TemporaryDirectory() as name:
        checkpoint = save_tiny_checkpoint(Path(name) / "model", 2)
        with running_server(checkpoint, served_model_name=("tiny", "tiny-alias")) as server, server.http() as http:
            return page(http)


def main() -> int:
    """Writes the page, or compares it."""
    parser = argparse.ArgumentParser(description="Write docs/bad-inputs.md from what a server really answers.")
    parser.add_argument("--check", action="store_true", help="only compare; exit code 1 when the page is out of date")
    args = parser.parse_args()
    text = fresh_page()
    if not args.check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"docs/{PAGE.name} is out of date; run: python docs/{Path(__file__).name}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
