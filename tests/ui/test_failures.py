"""What goes wrong is said, keeps what had arrived, and can be tried again."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.ui.browsing import ask, contents, import_file, last_answer, reload, tool, until, wait_for_end, watched_page
from tests.ui.fake_server import BREAK, FakeServer, Fault, Status, echo

KEPT = "half an answer"


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([Status(401)], "API key"),
        ([Status(403)], "API key"),
        ([Status(429)], "in 7 s"),
        ([Status(503)], "in 7 s"),
        ([Status(400, "max_tokens is 0")], "max_tokens is 0"),
        ([Status(500, "went wrong")], "went wrong"),
        ([KEPT, BREAK], "broke off"),
        ([KEPT, Fault("out of memory")], "out of memory"),
    ],
)
def test_failures_are_said_and_can_be_tried_again(page, fake, steps, said):
    fake.script = lambda _: steps
    ask(page, "hello")
    expect(page.locator(".failure")).to_contain_text(said, use_inner_text=True)
    reload(page)
    expect(page.locator(".failure")).to_contain_text(said, use_inner_text=True)
    fake.script = echo
    page.locator(".failure").get_by_role("button", name="Try again").click()
    page.wait_for_selector("text=You said hello")
    wait_for_end(page)
    assert page.locator(".failure").count() == 0
    assert contents(fake.requests[-1]["messages"]) == ["hello"]
    # What had arrived of the first answer is a version of its own.
    expect(page.locator(".assistant .versions")).to_have_count(1 if KEPT in steps else 0)
    if KEPT in steps:
        tool(page, "Earlier version").click()
        expect(last_answer(page)).to_have_text(KEPT, use_inner_text=True)


def test_a_server_that_goes_in_mid_answer_and_comes_back(page, fake):
    def script(_):
        yield "the first half "
        yield 0.2
        fake.server_close()
        yield BREAK

    fake.script = script
    ask(page, "hello")
    expect(page.locator(".failure")).to_contain_text("What had arrived is kept", use_inner_text=True)
    fake.stop()
    page.wait_for_selector("#state.down")
    page.locator(".failure").get_by_role("button", name="Try again").click()
    page.wait_for_selector("text=does not answer")
    back = FakeServer(port=fake.port)
    try:
        page.wait_for_selector("#state.ready")  # the page finds out by itself
        page.locator(".failure").get_by_role("button", name="Try again").click()
        page.wait_for_selector("text=You said hello")
        wait_for_end(page)
    finally:
        back.stop()


def test_a_reload_in_mid_answer_keeps_what_had_arrived(page, fake):
    fake.script = lambda _: ["word "] + [part for _ in range(600) for part in ("word ", 0.01)]
    ask(page, "hello", done=False)
    until(page, "document.querySelector('.assistant .body')?.textContent.length > 1200")
    reload(page)
    assert fake.cancelled.wait(5)
    assert len(last_answer(page).inner_text()) > 500
    expect(tool(page, "Continue")).to_have_text("Continue", use_inner_text=True)  # in words: the answer is not complete


def test_a_record_that_is_damaged_loses_no_other(page, fake):
    ask(page, "keep me")
    page.evaluate(
        """() => new Promise((done) => {
          const opening = indexedDB.open("hidden-decoding", 1);
          opening.onsuccess = () => {
            const table = opening.result.transaction("conversations", "readwrite").objectStore("conversations");
            for (const bad of [{id: "x"}, {id: "y", title: "y", messages: [{role: "system", content: 1}]},
              {id: "z", title: "z", messages: [{id: "a", parent: "b", role: "user", content: ""}]}]) table.put(bad);
            table.transaction.oncomplete = done;
          };
        })"""
    )
    reload(page)
    expect(page.locator("#notice")).to_contain_text("3 damaged conversations", use_inner_text=True)
    expect(page.locator("#list li")).to_have_text(["keep me"], use_inner_text=True)
    expect(last_answer(page)).to_have_text("You said keep me", use_inner_text=True)


def test_a_store_that_cannot_read_everything_reads_one_by_one(browser, page_server, fake):
    break_get_all = "IDBObjectStore.prototype.getAll = () => { throw new DOMException('', 'DataError'); };"
    with watched_page(browser, page_server.url) as page:
        ask(page, "keep me")
        page.add_init_script(break_get_all)
        reload(page)
        expect(page.locator("#list li")).to_have_text(["keep me"], use_inner_text=True)


# A full disk may refuse the request, or only the transaction after the request has succeeded.
REFUSALS = {
    "request": "IDBObjectStore.prototype.put = () => { throw new DOMException('', 'QuotaExceededError'); };",
    "transaction": "const put = IDBObjectStore.prototype.put; IDBTransaction.prototype.commit = () => {};"
    "IDBObjectStore.prototype.put = function (one) {"
    " const request = put.call(this, one); request.onsuccess = () => this.transaction.abort(); return request; };",
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_full_disk_is_said_and_the_chat_goes_on(page, refusal):
    page.evaluate(f"() => {{ {REFUSALS[refusal]} }}")
    ask(page, "hello")
    expect(last_answer(page)).to_have_text("You said hello", use_inner_text=True)
    expect(page.locator("#notice")).to_contain_text("refuses to keep", use_inner_text=True)


def test_a_browser_without_a_store_can_chat(browser, page_server):
    no_store = "indexedDB.open = () => { throw new DOMException('', 'SecurityError'); }"
    with watched_page(browser, page_server.url, before=lambda page: page.add_init_script(no_store)) as page:
        ask(page, "hello")
        expect(last_answer(page)).to_have_text("You said hello", use_inner_text=True)


GOOD = {"id": "a", "title": "good", "messages": []}
NO_CONVERSATIONS = [
    {"id": 1},
    {"id": "a", "title": "t", "messages": [{"role": "tool"}]},
    {"id": "a", "title": "t", "messages": [{"id": "m", "parent": "m", "role": "user", "content": "loop"}]},
    {"id": "a", "title": "t", "messages": [{"id": "m", "parent": "x", "role": "user", "content": "lost"}]},
]


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "null",
        "[]",
        '{"format": "other", "conversations": []}',
        *({"format": "hidden-decoding-chat", "conversations": [GOOD, bad]} for bad in NO_CONVERSATIONS),
    ],
)
def test_a_broken_import_changes_nothing(page, content):
    ask(page, "keep")
    import_file(page, content)
    page.wait_for_selector("#notice:has-text('not an export')")
    expect(page.locator("#list li")).to_have_text(["keep"], use_inner_text=True)
