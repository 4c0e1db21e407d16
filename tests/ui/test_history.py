"""Conversations kept in the browser: list, search, rename, delete, export, import, and a very long one."""

from __future__ import annotations

import json

from playwright.sync_api import expect

from tests.ui.browsing import ask, import_file, last_answer, reload, tool, until


def exported(page, name: str) -> tuple[str, str]:
    """The name and the content of the file that a button of the settings offers."""
    page.click("#options")
    with page.expect_download() as waiting:
        page.get_by_role("button", name=name).click()
    page.click("#close-settings")
    return waiting.value.suggested_filename, waiting.value.path().read_text()


def test_rename_delete_undo_and_search(page):
    for text in ("apples", "pears"):
        page.click("#new")
        ask(page, text)
    titles = page.locator("#list li")
    expect(titles).to_have_text(["pears", "apples"], use_inner_text=True)
    page.hover("#list li >> nth=0")
    page.click("[aria-label='Rename: pears']")
    page.keyboard.type("plums")
    page.keyboard.press("Enter")
    expect(titles).to_have_text(["plums", "apples"], use_inner_text=True)
    page.fill("#search", "SAID PEARS")  # in the text of an answer
    until(page, "document.querySelectorAll('#list li').length === 1")
    expect(titles).to_have_text(["plums"], use_inner_text=True)
    page.fill("#search", "nowhere")
    page.wait_for_selector("#list >> text=Nothing found")
    page.fill("#search", "")
    until(page, "document.querySelectorAll('#list li').length === 2")
    page.hover("#list li >> nth=0")
    page.click("[aria-label='Delete: plums']")
    until(page, "document.querySelectorAll('#list li').length === 1")
    page.click("#notice >> text=Undo")
    until(page, "document.querySelectorAll('#list li').length === 2")
    page.hover("#list li >> nth=1")
    page.click("[aria-label='Delete: apples']")
    until(page, "document.querySelectorAll('#list li').length === 1")
    reload(page)
    expect(titles).to_have_text(["plums"], use_inner_text=True)


def test_a_deleted_conversation_stops_its_answer_and_stays_deleted(page, fake):
    fake.script = lambda _: (part for _ in range(10_000) for part in ("more ", 0.01))
    ask(page, "endless", done=False)
    page.wait_for_selector(".assistant .body:has-text('more more')")
    page.hover("#list li")
    page.click("[aria-label='Delete: endless']")
    assert fake.cancelled.wait(5)
    page.wait_for_selector(".welcome")
    reload(page)
    expect(page.locator("#list li")).to_have_count(0)


def test_an_export_comes_back_with_all_versions_and_without_keys(page, fake):
    page.click("#options")
    page.fill("#key", "very-secret")
    page.press("#key", "Tab")
    page.get_by_label("System prompt").fill("private prompt")
    page.click("#close-settings")
    fake.script = lambda text: [{"reasoning": "Hm."}, f"**{text}**"]
    ask(page, "one")
    tool(page, "Answer again").click()
    page.wait_for_selector("text=2/2")
    name, text = exported(page, "All as JSON")
    assert name == "hidden-decoding-chats.json"
    assert "secret" not in text
    assert "private prompt" not in text
    assert "very-secret" not in page.evaluate("JSON.stringify(localStorage)")
    assert len(json.loads(text)["conversations"][0]["messages"]) == 3
    page.hover("#list li")
    page.click("[aria-label='Delete: one']")
    page.wait_for_selector(".welcome")
    import_file(page, text)
    page.click("#list >> text=one")
    page.wait_for_selector("text=2/2")
    expect(last_answer(page).locator("strong")).to_have_text("one", use_inner_text=True)
    page.click(".thinking summary")
    page.wait_for_selector(".thinking .prose:has-text('Hm.')")
    name, text = exported(page, "This one as Markdown")
    assert name == "one.md"
    assert text == "# one\n\n## You\n\none\n\n## Answer\n\n**one**\n"


def test_two_thousand_messages(page, fake):
    messages = [{"role": ("user", "assistant")[i % 2], "content": f"message {i}"} for i in range(2000)]
    conversation = {"id": "a", "title": "long", "changed": 1, "messages": messages}
    import_file(page, {"format": "hidden-decoding-chat", "conversations": [conversation]})
    page.click("#list >> text=long")
    page.wait_for_selector("text=message 1999")
    expect(page.locator("#messages article")).to_have_count(60)
    # Earlier ones come above, and what was on top stays in its place.
    page.evaluate("document.getElementById('messages').scrollTop = 0")
    place = "document.querySelector('#messages article').getBoundingClientRect().top"
    first = page.locator("#messages article").first.inner_text()
    before = page.evaluate(place)
    page.click("text=Show 1940 earlier messages")
    until(page, "document.querySelectorAll('#messages article').length === 260")
    top = page.locator(f"#messages article:has-text('{first.splitlines()[0]}')").first.bounding_box()["y"]
    assert abs(top - before) < 4
    ask(page, "and now")
    assert len(fake.requests[-1]["messages"]) == 2001
    expect(last_answer(page)).to_have_text("You said and now", use_inner_text=True)
    reload(page)
    expect(last_answer(page)).to_have_text("You said and now", use_inner_text=True)


def test_drafts_stay_with_their_conversation(page):
    ask(page, "one")
    page.fill("#input", "not sent yet")
    page.click("#new")
    assert page.input_value("#input") == ""
    page.click("#list >> text=one")
    assert page.input_value("#input") == "not sent yet"
