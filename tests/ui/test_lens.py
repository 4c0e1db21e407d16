"""The stream lens on the page, asked of the real local engine in a real browser: it shows the API's numbers."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from tests.serve.support import running_server, wait_until
from tests.ui.browsing import ask, reload, tool, wait_for_end, watched_page
from tests.ui.conftest import serving
from tests.ui.pictures import MODEL, NAME, picture

PROMPT = "Hello"


@pytest.fixture(scope="module")
def engine(tiny_checkpoint):
    """The local engine's server with the page at `/`, n = 4."""
    with running_server(tiny_checkpoint(4), with_page=True) as server:
        yield server


@pytest.fixture
def local(engine, browser):
    with watched_page(browser, engine.url, viewport={"width": 1100, "height": 1000}) as page:
        yield page


def ask_with_lens(page, tokens: int) -> None:
    page.click("#lens")
    page.click("#options")
    page.get_by_label("Most tokens").fill(str(tokens))
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Temperature").press("Tab")
    page.click("#close-settings")
    ask(page, PROMPT)


def api_lens(url: str, tokens: int) -> dict:
    body = {
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream_lens": True,
    }
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()["choices"][0]["stream_lens"]


def rows(table) -> list[list[str]]:
    return [[cell.inner_text() for cell in row.locator("th, td").all()] for row in table.locator("tbody tr").all()]


def test_the_panel_shows_the_numbers_of_the_api(local, engine):
    ask_with_lens(local, 12)
    lens = api_lens(engine.url, 12)
    count = len(lens["tokens"])
    assert count > 1
    buttons = local.locator(".lens .heat-map button")
    expect(buttons).to_have_count(count)
    expect(local.locator(".lens .heat-map .cell")).to_have_count(4 * count)

    # Which streams would have said another token, cell by cell.
    differs = [not stream["agrees"] for token in lens["tokens"] for stream in token["streams"]]
    cells = local.locator(".lens .heat-map .cell")
    assert cells.evaluate_all("all => all.map((cell) => cell.classList.contains('differs'))") == differs
    # Colours in the order of the entropies.
    bits = [stream["entropy_bits"] for token in lens["tokens"] for stream in token["streams"]]
    steps = cells.evaluate_all("all => all.map((cell) => Number(cell.className.match(/heat-(\\d)/)[1]))")
    top = max(1.0, *bits)
    assert steps == [min(8, int(9 * value / top)) for value in bits]

    # The chosen token: every stream's entropy and guesses.
    for index in (0, count - 1):
        buttons.nth(index).click()
        shown = local.locator(".lens .guesses tbody tr").all()
        for stream, row in zip(lens["tokens"][index]["streams"], shown, strict=True):
            agrees, entropy = row.locator("td").all_inner_texts()[:2]
            assert agrees == ("yes" if stream["agrees"] else "no")
            assert entropy == f"{stream['entropy_bits']:.2f}"
            assert row.locator("small").all_inner_texts() == [
                f"{100 * guess['probability']:.1f}%" for guess in stream["top"]
            ]

    # The tables behind the pictures.
    local.click(".lens .tables summary")
    expect(local.locator(".lens .tables table")).to_have_count(2)
    entropies, cosines = (rows(table) for table in local.locator(".lens .tables table").all())
    assert [row[1:] for row in entropies] == [
        [f"{stream['entropy_bits']:.2f} {'✓' if stream['agrees'] else '≠'}" for stream in token["streams"]]
        for token in lens["tokens"]
    ]
    assert [row[0] for row in cosines] == lens["layers"]
    assert [[float(cell) for cell in row[1:]] for row in cosines] == [
        [pytest.approx(value, abs=5.1e-4) for value in layer] for layer in lens["cosine"]
    ]
    shares = local.locator(".lens .agreement dd").all_inner_texts()
    for stream, text in enumerate(shares):
        share = sum(token["streams"][stream]["agrees"] for token in lens["tokens"]) / count
        assert text.strip() == f"{100 * share:.1f}%"
    expect(local.locator(".lens .depth polyline")).to_have_count(3)


def test_keys_move_over_the_map_and_a_reload_keeps_it(local):
    ask_with_lens(local, 6)
    buttons = local.locator(".lens .heat-map button")
    buttons.first.focus()
    local.keyboard.press("ArrowRight")
    local.keyboard.press("ArrowRight")
    expect(buttons.nth(2)).to_have_attribute("aria-pressed", "true")
    local.keyboard.press("End")
    assert buttons.last.evaluate("(node) => node === document.activeElement")
    expect(local.locator(".lens .heat-map button[tabindex='0']")).to_have_count(1)
    reload(local)
    local.click(".lens > summary")
    local.wait_for_selector(".lens .guesses")
    assert buttons.count() == local.locator(".lens .heat-map button").count() > 2


def test_the_lens_works_through_the_pages_own_server(engine, browser):
    with serving(base_url=(f"{engine.url}/v1",)) as server, watched_page(browser, server.url) as page:
        ask_with_lens(page, 3)
        expect(page.locator(".lens .heat-map button")).to_have_count(len(api_lens(engine.url, 3)["tokens"]))


def test_a_server_without_the_lens_has_no_switch_for_it(page, fake):
    assert page.locator("#lens").is_hidden()
    ask(page, "hello")
    assert "stream_lens" not in fake.requests[-1]


@pytest.mark.parametrize("lens", [{"streams": 2}, {"streams": 1, "tokens": [], "layers": [], "cosine": []}, 7, "x"])
def test_a_lens_that_is_none_is_left_out(browser, page_server, fake, lens):
    fake.lens = lens
    with watched_page(browser, page_server.url) as page:
        page.click("#lens")
        ask(page, "hello")
        expect(page.locator(".assistant .body")).to_have_text("You said hello", use_inner_text=True)
        assert page.locator(".lens").count() == 0


def test_stop_and_continue_on_the_real_engine(local, engine, monkeypatch):
    step = engine.engine.step
    # A tiny model would be at the end of its context before anybody could press a button.
    monkeypatch.setattr(engine.engine, "step", lambda: (time.sleep(0.1), step())[1])
    local.fill("#input", "Go on for long")
    local.press("#input", "Enter")
    local.wait_for_selector("#speed:has-text('tokens/s')")
    local.click("#stop")
    wait_until(lambda: not engine.busy())
    wait_for_end(local)
    monkeypatch.undo()
    before = local.inner_text(".assistant .body")
    local.click("#options")
    local.get_by_label("Most tokens").fill("3")
    local.get_by_label("Most tokens").press("Tab")
    local.click("#close-settings")
    tool(local, "Continue").click()
    wait_for_end(local)
    assert local.locator(".failure").count() == 0
    assert local.inner_text(".assistant .body").startswith(before.rstrip())


def test_picture_of_the_panel(browser, tiny_checkpoint):
    """For the docs a trained model's own streams (`make pictures`); nothing in it is made up."""
    viewport = {"width": 1100, "height": 1180}
    with (
        running_server(
            Path(MODEL) if MODEL else tiny_checkpoint(4), with_page=True, served_model_name=(NAME,)
        ) as server,
        watched_page(browser, server.url, viewport=viewport) as page,
    ):
        page.click("#lens")
        page.click("#options")
        page.get_by_label("Most tokens").fill("60")
        page.get_by_label("Temperature").fill("0.8")
        page.get_by_label("Seed").fill("5")
        page.get_by_label("Seed").press("Tab")
        page.click("#close-settings")
        ask(page, "What does the sorted function do?")
        page.locator(".lens .heat-map button").last.click()
        page.evaluate("document.querySelector('.lens').scrollIntoView()")
        picture(page, "chat-lens")
