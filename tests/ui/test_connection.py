"""Which server and model is asked: the picker, several upstreams, keys, and a URL typed in."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.ui.browsing import ask, last_answer, reload, until, watched_page
from tests.ui.conftest import serving
from tests.ui.fake_server import FakeServer, fake_server


def options(page) -> list[str]:
    return page.locator("#model option").all_inner_texts()


def test_the_picker_chooses_among_models_and_servers(browser, fake):
    fake.models = ("small", "large")
    with (
        fake_server(models=("other",)) as second,
        serving(base_url=(f"local={fake.base_url}", f"far={second.base_url}")) as ui,
        watched_page(browser, ui.url) as page,
    ):
        assert options(page) == ["small", "large", "other"]
        assert page.locator("#model optgroup").evaluate_all("all => all.map((group) => group.label)") == [
            "local",
            "far",
        ]
        ask(page, "hello")
        assert fake.requests[-1]["model"] == "small"
        page.select_option("#model", label="large")
        ask(page, "hello")
        assert fake.requests[-1]["model"] == "large"
        page.select_option("#model", label="other")
        ask(page, "hello")
        assert second.requests[-1]["model"] == "other"
        reload(page)
        ask(page, "again")
        assert len(second.requests) == 2


def test_a_key_typed_in_goes_to_its_server_only(browser, fake):
    fake.model_status = 401
    with (
        fake_server(models=("other",)) as second,
        serving(base_url=(f"local={fake.base_url}", f"far={second.base_url}")) as ui,
        watched_page(browser, ui.url) as page,
    ):
        page.wait_for_selector("#state.locked")
        fake.model_status = None
        page.click("#options")
        page.fill("#key", "typed-in")
        page.press("#key", "Tab")
        page.wait_for_selector("#state.ready")
        page.click("#close-settings")
        ask(page, "hello")
        assert fake.headers[-1]["authorization"] == "Bearer typed-in"
        page.select_option("#model", label="other")
        ask(page, "hello")
        assert "authorization" not in {name.lower() for name in second.headers[-1]}
        assert "typed-in" not in page.url + page.evaluate("JSON.stringify(localStorage)")


def test_a_url_can_be_typed_in_only_where_it_is_allowed(browser, fake, page_server):
    # Not watched: the browser's word about the policy, a console error, is what is wanted here.
    context = browser.new_context()
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(page_server.url)
    page.wait_for_selector("html[data-ready]")
    page.click("#options")
    assert page.get_by_label("Base URL").count() == 0
    assert page.evaluate(f"fetch('{fake.base_url}/models').then(() => 'reached', () => 'blocked')") == "blocked"
    assert any("Content Security Policy" in text for text in said)
    context.close()


def test_a_url_typed_in_is_asked_by_the_browser(browser, fake):
    with (
        fake_server(models=("elsewhere",), cors=True) as second,
        serving(base_url=(fake.base_url,), allow_any_base_url=True) as ui,
        watched_page(browser, ui.url) as page,
    ):
        page.click("#options")
        field = page.get_by_label("Base URL")
        field.fill("javascript:alert(1)")
        field.press("Tab")
        assert field.evaluate("(node) => !node.validity.valid")
        field.fill(f"{second.base_url}/")
        field.press("Tab")
        until(page, "document.getElementById('model').textContent.includes('elsewhere')")
        page.click("#close-settings")
        ask(page, "hello")
        expect(last_answer(page)).to_have_text("You said hello", use_inner_text=True)
        assert second.requests[-1]["model"] == "elsewhere"
        assert not fake.requests
        reload(page)
        assert "elsewhere" in options(page)


def test_a_server_that_starts_later_is_found(browser):
    with fake_server() as gone:
        port = gone.port
    with serving(base_url=(f"http://127.0.0.1:{port}/v1",)) as ui, watched_page(browser, ui.url) as page:
        page.wait_for_selector("#state.down")
        assert options(page) == ["does not answer"]
        late = FakeServer(port=port)
        try:
            page.wait_for_selector("#state.ready")
            assert options(page) == ["fake"]
        finally:
            late.stop()
