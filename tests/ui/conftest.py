"""One Chromium for these tests; a page whose console errors and foreign requests fail the test."""

from __future__ import annotations

import shutil
import threading
from urllib.parse import urlsplit

import pytest

from hidden_decoding.ui.server import PageServer
from hidden_decoding.ui.settings import UiConfig
from tests.conftest import missing
from tests.ui.fake_server import FakeServer

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


# Not for the session: as long as it lives, its event loop runs in this thread, and `asyncio.run` of others fails.
@pytest.fixture(scope="package")
def browser():
    path = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path = None
    if path is None:
        missing("Chromium with playwright")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def fake():
    with FakeServer() as server:
        yield server
        server.shutdown()


@pytest.fixture
def page_server(fake):
    with PageServer(UiConfig(base_url=(fake.base_url,), port=0, api_key="secret")) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def context_options():
    return {}


@pytest.fixture
def page(browser, page_server, context_options):
    context = browser.new_context(**context_options)
    page = context.new_page()
    page.set_default_timeout(8000)
    faults: list[str] = []

    def console(message):
        # The browser logs every failed answer by itself; the cases of 401 and 429 are about them.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            faults.append(message.text)

    page.on("console", console)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "request",
        lambda request: (
            faults.append(request.url) if urlsplit(request.url).hostname not in ("127.0.0.1", None) else None
        ),
    )
    page.goto(page_server.url)
    page.wait_for_selector("html[data-ready]")
    yield page
    context.close()
    assert not faults
