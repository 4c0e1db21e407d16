"""Writes the pages of docs/ that restate code or records: command line, settings, API, errors, benchmark records.

Contract: a page follows from the code and the records alone. `--check` writes nothing and exits with 1 when a page is
not what the code says today; a test runs it.

    $ python docs/generators --check
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import api_page
import cli_page
import errors_page
import records_page
import settings_page

DOCS = Path(__file__).parents[1]
PAGES = {
    "reference/cli.md": cli_page.page,
    "reference/settings.md": settings_page.page,
    "reference/api.md": api_page.page,
    "reference/errors.md": errors_page.page,
    "benchmark-records.md": records_page.page,
}
HEAD = "<!-- Generated from the code by `make reference`; do not edit. -->\n\n"


def main() -> int:
    """Writes the pages, or compares them."""
    parser = argparse.ArgumentParser(description="Write the generated pages of docs/.")
    parser.add_argument("--check", action="store_true", help="only compare; exit code 1 when a page is out of date")
    args = parser.parse_args()
    stale = []
    for name, make in PAGES.items():
        target, text = DOCS / name, HEAD + make()
        if target.is_file() and target.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not args.check:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    for name in stale:
        sys.stderr.write(f"docs/{name} is out of date; run: make reference\n" if args.check else f"wrote docs/{name}\n")
    return int(bool(stale) and args.check)


if __name__ == "__main__":
    sys.exit(main())
