"""The chat page in a real browser, against a scripted server."""

from __future__ import annotations

import json

import pytest

# ruff: noqa: E501
HOSTILE = [
    "<script>window.hit=1</script>", "<img src=x onerror=window.hit=1>", "<svg onload=window.hit=1>", "<iframe src=https://evil.test>",
    "[a](javascript:window.hit=1)", "[a](JaVaScRiPt:window.hit=1)", "[a](data:text/html,<script>window.hit=1</script>)",
    "![a](https://evil.test/a.png)", "![a](data:image/svg+xml,x)", "<a href='javascript:window.hit=1'>a</a>", "<style>*{display:none}</style>",
    "<form action=https://evil.test><input name=a></form>", "<base href=https://evil.test>", "<meta http-equiv=refresh content='0;url=https://evil.test'>",
    "<math><mtext></p><style><img src=x onerror=window.hit=1>", "<details open ontoggle=window.hit=1>", "<body onload=window.hit=1>",
    "<video src=https://evil.test onerror=window.hit=1>", "<object data=https://evil.test>", "<embed src=https://evil.test>",
    "<link rel=stylesheet href=https://evil.test>", "```js\n</code></pre><img src=x onerror=window.hit=1>\n```", "$\\href{javascript:window.hit=1}{a}$",
    "$$\\includegraphics{https://evil.test/a.png}$$", "$\\htmlStyle{background:url(https://evil.test)}{a}$", "[a]: javascript:window.hit=1\n\n[a]",
    "<https://x\"onmouseover=window.hit=1>", "`<img src=x onerror=window.hit=1>`", "|<img src=x onerror=window.hit=1>|b|\n|-|-|\n|c|d|",
    "<div id=input name=send style='position:fixed;inset:0'>x</div>",
]  # fmt: skip


def ask(page, text, done=True):
    page.fill("#input", text)
    page.press("#input", "Enter")
    if done:
        page.wait_for_selector("#send:visible")


def last(page):
    return page.locator(".assistant .body").last


def test_an_answer_streams_and_survives_a_reload(page, fake):
    ask(page, "hello")
    assert last(page).inner_text() == "You said hello"
    assert "3 tokens" in page.inner_text("#speed")
    assert fake.headers[-1]["authorization"] == "Bearer secret"
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert last(page).inner_text() == "You said hello"


def test_stop_is_seen_by_the_server(page, fake):
    ask(page, "endless", done=False)
    page.wait_for_selector(".assistant .body:has-text('more more')")
    page.click("#stop")
    assert fake.cancelled.wait(5)
    page.wait_for_selector("#send:visible")


def test_regenerate_edit_and_continue(page, fake):
    ask(page, "one")
    page.click(".assistant >> text=Regenerate")
    page.wait_for_selector("#send:visible")
    assert len(fake.requests) == 2
    assert fake.requests[0]["messages"] == fake.requests[1]["messages"]
    page.click(".assistant >> text=Continue")
    page.wait_for_selector("#send:visible")
    assert fake.requests[2]["continue_final_message"] is True
    assert last(page).inner_text() == "You said oneYou said one"
    page.click(".user >> text=Edit")
    ask(page, "two")
    assert [m["content"] for m in fake.requests[3]["messages"]] == ["two"]


def test_thinking_is_folded(page):
    ask(page, "think")
    assert page.locator("details.think:not([open]) summary").inner_text().startswith("Thought for")


@pytest.mark.parametrize(("text", "shown"), [("401", "API key"), ("429", "7 s"), ("break", "broke off")])
def test_failures_are_said_and_can_be_retried(page, fake, text, shown):
    ask(page, text)
    assert shown in page.inner_text(".error")
    page.click(".error >> text=Retry")
    page.wait_for_selector("#send:visible")
    assert len(fake.requests) == 2


def test_enter_while_composing_does_not_send(page, fake):
    page.fill("#input", "ni")
    page.evaluate(
        "document.getElementById('input').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true}))"
    )
    assert page.input_value("#input") == "ni"
    assert not fake.requests


def test_hostile_text_stays_text(page, fake):
    for text in HOSTILE:
        fake.script = lambda _, text=text: [text]
        ask(page, "x")
    assert page.evaluate("window.hit") is None
    bad = "#messages :is(script,img,iframe,style,form,input,base,meta,object,embed,video,link,[onerror],[onload])"
    assert page.locator(bad).count() == 0
    links = page.eval_on_selector_all("#messages a", "all => all.map(a => [a.getAttribute('href'), a.rel])")
    assert all(href is None or href.startswith(("http", "mailto")) for href, _ in links)


def test_markdown_code_tables_and_mathematics(page, fake):
    fake.script = lambda _: ["# T\n\n```python\nx = 1\n```\n\n|a|b|\n|-|-|\n|1|2|\n\n$$\nx^2\n\n+1\n$$\n\nand $y$"]
    ask(page, "x")
    page.wait_for_selector(".katex-display")
    page.wait_for_selector(".hljs-number")
    assert page.locator("table td").count() == 2
    assert page.locator(".katex").count() == 2


def test_a_broken_import_changes_nothing_and_an_export_comes_back(page):
    ask(page, "keep")
    for content in ("{", '{"format": "hidden-decoding-chat", "conversations": [{"id": 1}]}', "null"):
        page.set_input_files("#file", {"name": "a.json", "mimeType": "application/json", "buffer": content.encode()})
        page.wait_for_selector("#notice:visible")
        assert page.locator("#list li").count() == 1
    messages = [{"role": ("user", "assistant")[i % 2], "content": f"m{i}"} for i in range(2000)]
    good = {
        "format": "hidden-decoding-chat",
        "conversations": [{"id": "a", "title": "long", "changed": 1, "messages": messages}],
    }
    page.set_input_files(
        "#file", {"name": "a.json", "mimeType": "application/json", "buffer": json.dumps(good).encode()}
    )
    page.click("#list >> text=long")
    page.wait_for_selector("text=m1999")
    assert page.locator("#messages article").count() == 60


def test_finished_blocks_are_never_replaced(page, fake):
    fake.script = lambda _: (f"word{i} " + ("\n\n" if i % 40 == 39 else "") for i in range(20_000))
    page.evaluate(
        """() => { window.touched = 0; window.seen = 0; new MutationObserver((all) => { for (const m of all) {
        const block = m.target.nodeType === 1 ? m.target.closest('[data-finished]') : m.target.parentElement?.closest('[data-finished]');
        if (block && window.old?.has(block)) window.touched += 1;
        for (const node of m.removedNodes) if (node.nodeType === 1 && node.matches('[data-finished]')) window.touched += 1; }
        window.old = new Set(document.querySelectorAll('[data-finished]')); window.seen = window.old.size;
        }).observe(document.getElementById('messages'), {subtree: true, childList: true, characterData: true}); }"""
    )
    page.fill("#input", "long")
    page.press("#input", "Enter")
    page.wait_for_selector("#send:visible", timeout=90_000)
    assert page.evaluate("window.touched") == 0
    assert page.evaluate("window.seen") == 500
    assert last(page).inner_text().split()[-1] == "word19999"


@pytest.mark.parametrize("context_options", [{"viewport": {"width": 375, "height": 700}, "color_scheme": "dark"}])
def test_a_phone_in_the_dark(page, context_options):
    ask(page, "hello")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 25, 24)"
