"""What the tests do with the page, and what must never happen on it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from urllib.parse import urlsplit

OWN = ("127.0.0.1", "localhost", None)


@contextlib.contextmanager
def watched_page(browser, url: str, *, before: Callable | None = None, **options):
    """A page of a context of its own: a console error or a request to another host fails the test.

    `before(page)` is called before the page is opened.
    """
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(30_000)  # a busy machine must not fail a test
    faults: list[str] = []

    def on_console(message):
        # The browser logs every failed answer by itself; many cases are about those.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            faults.append(f"console: {message.text}")

    def on_request(request):
        if urlsplit(request.url).hostname not in OWN:
            faults.append(f"request to {request.url}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on("request", on_request)
    if before:
        before(page)
    page.goto(url)
    page.wait_for_selector("html[data-ready]")
    try:
        yield page
    except BaseException as error:
        if faults:  # likely the cause
            raise AssertionError(faults) from error
        raise
    finally:
        context.close()
    assert not faults, faults


def ask(page, text: str, *, done: bool = True) -> None:
    """Types a question, sends it with Enter and waits for the end of the answer."""
    page.fill("#input", text)
    page.press("#input", "Enter")
    if done:
        wait_for_end(page)


def wait_for_end(page, seconds: float = 30) -> None:
    """Until no answer is on its way and the last one is drawn."""
    page.wait_for_selector("#send:visible", timeout=seconds * 1000)
    until(page, "!document.querySelector('#messages [aria-busy]')", seconds)


def until(page, expression: str, seconds: float = 30) -> None:
    """Polls until an expression holds (the page's policy forbids what Playwright's own waiting does)."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"waited in vain for {expression}"
        page.wait_for_timeout(20)


def reload(page) -> None:
    page.reload()
    page.wait_for_selector("html[data-ready]")


def last_answer(page):
    """The text of the last answer."""
    return page.locator(".assistant .body").last


def tool(page, name: str, of: str = ".assistant"):
    """A button under the last message of a kind."""
    return page.locator(of).last.get_by_role("button", name=name, exact=True)


def contents(messages: list[dict]) -> list[str]:
    return [message["content"] for message in messages]


def import_file(page, content: str | dict) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    page.set_input_files("#file", {"name": "a.json", "mimeType": "application/json", "buffer": text.encode()})
