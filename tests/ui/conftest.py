"""One Chromium for these tests, a scripted server, and the page in front of it."""

from __future__ import annotations

import contextlib
import shutil
import threading

import pytest

from hidden_decoding.ui.server import PageServer
from hidden_decoding.ui.settings import UiConfig
from tests.conftest import missing
from tests.ui.browsing import watched_page
from tests.ui.fake_server import fake_server

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


# Not for the session: as long as it lives, its event loop runs in this thread, and `asyncio.run` of others fails.
@pytest.fixture(scope="package")
def browser():
    path = shutil.which("chromium")
    try:
        from playwright.sync_api import expect, sync_playwright
    except ImportError:
        path = None
    if path is None:
        missing("Chromium with playwright")
    expect.set_options(timeout=30_000)  # a busy machine must not fail a test
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def fake():
    with fake_server() as server:
        yield server


@contextlib.contextmanager
def serving(**settings):
    """The page's server on a free port."""
    with PageServer(UiConfig(port=0, **settings)) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


@pytest.fixture
def page_server(fake):
    with serving(base_url=(fake.base_url,), api_key="secret") as server:
        yield server


@pytest.fixture
def page(browser, page_server):
    with watched_page(browser, page_server.url) as page:
        yield page
