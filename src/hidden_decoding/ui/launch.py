"""Starts the page's server until it is interrupted.

>>> run(UiConfig())
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from hidden_decoding.ui.server import PageServer

if TYPE_CHECKING:
    from hidden_decoding.ui.settings import UiConfig


def run(config: UiConfig) -> int:
    """Serves the page; returns 0 after an interrupt."""
    with PageServer(config) as server:
        for upstream in server.upstreams.values():
            sys.stdout.write(f"{upstream.name:<11}{upstream.url}\n")
        sys.stdout.write(f"{'chat page':<11}{server.url}\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.1)
    return 0
