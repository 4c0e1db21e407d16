"""How the page looks and is used: light and dark, phone, Chinese, keyboard, screen readers, first paint."""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.ui.browsing import ask, last_answer, reload, wait_for_end, watched_page
from tests.ui.pictures import NAME, picture
from tests.ui.stories import rainbow, small_lens

PHONE = {"viewport": {"width": 375, "height": 720}}
STATES = ["empty", "answer", "settings", "shortcuts", "failure", "editing"]

GROUND = "getComputedStyle(document.body).backgroundColor"
CODE = "getComputedStyle(document.querySelector('.hljs-keyword')).color"


def brightness(page, expression: str) -> float:
    return sum(map(int, re.findall(r"\d+", page.evaluate(expression))[:3])) / 3


def show(page, fake, state: str) -> None:
    """Brings the page into a state in which much of it is seen."""
    if state in ("answer", "editing"):
        fake.script, fake.lens = rainbow, small_lens()
        reload(page)
        page.click("#lens")
        ask(page, "Why does a rainbow have its colours in that order?")
        page.wait_for_selector(".hljs-keyword")
        page.wait_for_selector(".lens table")
        page.click(".tables summary")
        page.click(".thinking summary")
    if state == "editing":
        page.locator(".user").get_by_role("button", name="Edit").click()
    if state == "failure":
        fake.stop()
        ask(page, "hello")
        page.click("#options")
    if state == "settings":
        ask(page, "hello")
        page.click("#options")
    if state == "shortcuts":
        page.click("#help")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", STATES)
def test_no_serious_fault_of_accessibility(browser, page_server, fake, state, scheme):
    with watched_page(browser, page_server.url, color_scheme=scheme, reduced_motion="reduce", bypass_csp=True) as page:
        show(page, fake, state)
        found = Axe().run(page).response["violations"]
        serious = [
            f"{fault['id']}: {[node['target'] for node in fault['nodes']]} {fault['nodes'][0]['failureSummary']}"
            for fault in found
            if fault["impact"] in ("serious", "critical")
        ]
        assert not serious, "\n".join(serious)


@pytest.mark.parametrize("state", ["empty", "answer"])
def test_no_serious_fault_of_accessibility_on_a_phone(browser, page_server, fake, state):
    with watched_page(browser, page_server.url, bypass_csp=True, reduced_motion="reduce", **PHONE) as page:
        show(page, fake, state)
        found = Axe().run(page).response["violations"]
        assert [fault["id"] for fault in found if fault["impact"] in ("serious", "critical")] == []


FOCUSABLE = """() => [...document.querySelectorAll('a, button, input, select, textarea, summary, [tabindex]')]
  .filter((node) => node.tabIndex >= 0 && !node.disabled && node.checkVisibility({visibilityProperty: true})
    && node.type !== 'file' && !(node.type === 'radio' && !node.checked))
  .map((node) => (node.dataset.probe = String(Math.random())))"""


def test_tab_reaches_everything(page, fake):
    show(page, fake, "answer")
    page.click("#options")
    page.evaluate("document.getElementById('messages').scrollTop = 1e9")
    page.wait_for_selector("#to-end", state="hidden")
    wanted = page.evaluate(FOCUSABLE)
    assert len(wanted) > 40
    page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(len(wanted) + 10):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement?.dataset.probe"))
    unreached = [
        page.evaluate(f"document.querySelector('[data-probe=\"{probe}\"]').outerHTML.slice(0, 120)")
        for probe in wanted
        if probe not in reached
    ]
    assert unreached == []


def test_focus_is_seen(page):
    page.keyboard.press("Shift+Tab")
    style = page.evaluate(
        "(s => [s.outlineStyle, parseFloat(s.outlineWidth)])(getComputedStyle(document.activeElement))"
    )
    assert style[0] == "solid"
    assert style[1] >= 2


def test_keys(page, fake):
    ask(page, "first")
    page.keyboard.press("Control+Shift+O")
    page.wait_for_selector(".welcome")
    assert page.evaluate("document.activeElement.id") == "input"
    page.keyboard.press("Control+k")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.press("Control+b")
    assert page.locator("#side").is_hidden()
    page.keyboard.press("Control+,")
    expect(page.locator("#settings")).to_be_visible()
    page.keyboard.press("Control+,")
    assert page.locator("#settings").is_hidden()
    page.keyboard.press("Control+/")
    expect(page.locator("#shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    assert page.locator("#shortcuts").is_hidden()
    page.locator("#messages").focus()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "input"
    assert page.input_value("#input") == ""
    page.keyboard.type("a")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("b")
    assert page.input_value("#input") == "a\nb"
    assert len(fake.requests) == 1


def test_enter_of_an_input_method_does_not_send(page, fake):
    """Chinese typed through Chromium's own input method events."""
    page.focus("#input")
    session = page.context.new_cdp_session(page)
    session.send("Input.imeSetComposition", {"text": "ni hao", "selectionStart": 6, "selectionEnd": 6})
    # The key that chooses a word: while it composes, the browser says so; Safari says only 229.
    press = "(options) => document.getElementById('input').dispatchEvent(new KeyboardEvent('keydown', options))"
    for extra in ({"isComposing": True}, {"keyCode": 229}):
        page.evaluate(press, {"key": "Enter", "bubbles": True, "cancelable": True, **extra})
    assert not fake.requests
    session.send("Input.insertText", {"text": "你好"})
    assert page.input_value("#input") == "你好"
    page.keyboard.press("Enter")
    wait_for_end(page)
    assert fake.requests[0]["messages"] == [{"role": "user", "content": "你好"}]
    # In a name and in an edited question, too.
    page.hover("#list li")
    page.click("[aria-label='Rename: 你好']")
    page.locator("#list input").dispatch_event("keydown", {"key": "Enter", "keyCode": 229})
    expect(page.locator("#list input")).to_have_count(1)


def test_chinese(browser, page_server, fake):
    fake.script, fake.models = rainbow, (NAME,)
    with watched_page(browser, page_server.url, locale="zh-CN") as page:
        expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
        expect(page.locator(".welcome h2")).to_have_text("想了解些什么？", use_inner_text=True)
        picture(page, "chat-chinese")
        ask(page, "彩虹")
        expect(page.locator(".thinking summary")).to_have_text(re.compile(r"^思考了"), use_inner_text=True)
        expect(page.locator(".stats")).to_contain_text("词元/秒", use_inner_text=True)
        page.click("#options")
        page.get_by_text("English").click()
        expect(page.locator("#settings h2")).to_have_text("Settings", use_inner_text=True)
        expect(page.locator(".thinking summary")).to_have_text(re.compile(r"^Thought for"), use_inner_text=True)
        reload(page)
        expect(page.locator("html")).to_have_attribute("lang", "en")


@pytest.mark.parametrize("system", ["light", "dark"])
def test_dark_and_light_by_system_and_by_hand(browser, page_server, fake, system):
    fake.script = rainbow
    with watched_page(browser, page_server.url, color_scheme=system) as page:
        ask(page, "x")
        page.wait_for_selector(".hljs-keyword")
        page.click("#options")
        seen = {}
        for name in ("Light", "Dark", "System"):
            page.get_by_role("group", name="Theme").get_by_text(name).click()
            seen[name] = brightness(page, GROUND), brightness(page, CODE)
        # By hand is what the system would give, code included.
        assert seen["System"] == seen[system.capitalize()]
        assert seen["Light"][0] > 240 > 60 > seen["Dark"][0]
        assert seen["Light"][1] < 128 < seen["Dark"][1]
        # A theme chosen by hand holds before anything else of the page runs.
        other = "Dark" if system == "light" else "Light"
        page.get_by_role("group", name="Theme").get_by_text(other).click()
        page.route("**/app.js", lambda route: route.abort())
        page.reload(wait_until="load")
        assert brightness(page, GROUND) == seen[other][0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(browser, page_server, fake, scheme):
    fake.script, fake.lens, fake.models = rainbow, small_lens(), (NAME,)
    options = {**PHONE, "color_scheme": scheme, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
    with watched_page(browser, page_server.url, **options) as page:
        assert page.evaluate("document.getElementById('messages').scrollTop") == 0
        page.click("#lens")
        page.fill("#input", "Why?")
        page.press("#input", "Enter")  # a new line where only a screen keyboard is at hand
        assert not fake.requests
        page.click("#send")
        wait_for_end(page)
        page.wait_for_selector(".lens .heat-map")
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        page.evaluate("document.getElementById('messages').scrollTop = 0")
        if scheme == "dark":
            picture(page, "chat-phone-dark")
        over = """(all) => all.filter((node) => node.getBoundingClientRect().right > 376
            && !node.closest('.scroll, pre, table, .formula')).length"""
        assert page.eval_on_selector_all("#messages *", over) == 0
        page.click("#menu")
        page.wait_for_selector("#side:visible")
        assert page.evaluate("document.getElementById('main').inert")
        page.click("#list .open")
        assert page.locator("#side").is_hidden()
        page.click("#options")
        page.wait_for_selector("#settings:visible")
        page.mouse.click(5, 300)  # beside it
        assert page.locator("#settings").is_hidden()
        small = [
            box
            for button in page.locator("button:visible").all()
            if (box := button.bounding_box()) and not button.evaluate("n => Boolean(n.closest('.heat-map'))")
            if min(box["width"], box["height"]) < 24
        ]
        assert not small, "too small for a finger"


def test_first_paint_needs_no_library(browser, page_server, fake):
    asked: list[str] = []
    with watched_page(
        browser, page_server.url, before=lambda page: page.on("request", lambda request: asked.append(request.url))
    ) as page:
        expect(page.locator(".welcome")).to_be_visible()
        assert not [url for url in asked if "/vendor/" in url]
        ask(page, "hello")
        assert {url.rsplit("/vendor/")[1] for url in asked if "/vendor/" in url} == {"marked.js", "purify.js"}


def test_pictures_for_the_docs(browser, page_server, fake):
    """The answer of the pictures, on a desktop in both themes, as a reader sees it."""
    fake.script, fake.lens, fake.models = lambda text: rainbow(text, 1.3), small_lens(), (NAME,)
    fake.usage = {"prompt_tokens": 21, "completion_tokens": 327, "metrics": {"tokens_per_second": 63.4}}
    for scheme in ("light", "dark"):
        with watched_page(
            browser, page_server.url, viewport={"width": 1180, "height": 760}, color_scheme=scheme
        ) as page:
            if scheme == "dark":
                picture(page, "chat-empty-dark")
            ask(page, "Why does a rainbow have its colours in that order?")
            page.wait_for_selector(".hljs-keyword")
            page.wait_for_selector(".katex-display")
            expect(last_answer(page).locator(".block")).to_have_count(8)
            page.evaluate("document.getElementById('messages').scrollTop = 0")
            picture(page, f"chat-answer-{scheme}")
