"""The stream lens on the page, asked of the real local engine in a real browser."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from tests.serve.support import running_server
from tests.ui.pictures import picture


@pytest.fixture
def local(tiny_checkpoint, browser):
    """A page at `/` of the local engine's server, n = 4; console errors and foreign requests fail the test."""
    faults: list[str] = []
    with running_server(tiny_checkpoint(4), with_page=True) as server:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None if urlsplit(request.url).hostname in ("127.0.0.1", None) else faults.append(request.url)
            ),
        )
        page.goto(server.url)
        page.wait_for_selector("html[data-ready]")
        yield page
        context.close()
    assert not faults


def ask_with_lens(page, tokens: int) -> None:
    page.click("#options")
    page.get_by_label("Stream lens").check()
    page.get_by_label("Max tokens").fill(str(tokens))
    page.get_by_label("Max tokens").press("Tab")
    page.click("#options")
    page.fill("#input", "Hello")
    page.press("#input", "Enter")
    page.wait_for_selector("details.lens")


def test_every_token_shows_what_each_stream_would_have_said(local):
    ask_with_lens(local, 12)
    local.click("details.lens > summary")
    columns = local.locator("details.lens svg g.column")
    count = columns.count()
    assert 1 <= count <= 12
    assert local.locator("details.lens svg rect.cell").count() == 4 * count
    columns.first.click()
    guesses = local.locator("details.lens [role=status] tbody tr")
    assert [row.locator("th").inner_text() for row in guesses.all()] == [f"Stream {i}" for i in range(1, 5)]
    assert guesses.last.locator("td").count() == 5
    local.click("details.lens details summary")
    assert local.locator("details.lens details table").first.locator("tbody tr").count() == count
    cosines = local.locator("details.lens details table").last.locator("tbody tr")
    assert cosines.first.locator("th").inner_text() == "embeddings"
    assert all(row.locator("td").last.inner_text() == "1.000" for row in cosines.all())
    picture(local, "chat-lens")
    # It is part of the conversation, so a reload keeps it.
    local.reload()
    local.wait_for_selector("html[data-ready]")
    local.wait_for_selector("details.lens", state="attached")


def test_a_server_without_the_lens_has_no_switch_for_it(page):
    page.click("#options")
    assert page.get_by_label("Stream lens").count() == 0
