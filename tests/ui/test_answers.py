"""Asking and answering: streaming, stop, regenerate, edit, continue, versions, thinking, and several at once."""

from __future__ import annotations

import re
import threading

import pytest
from playwright.sync_api import expect

from tests.ui.browsing import ask, contents, last_answer, reload, tool, wait_for_end


def test_an_answer_streams_with_its_speed_and_survives_a_reload(page, fake):
    go_on = threading.Event()

    def script(text):
        yield from ["You ", "said "]
        yield 0.3  # long enough for a figure of the speed
        yield text
        go_on.wait(10)

    fake.script = script
    ask(page, "hello", done=False)
    page.wait_for_selector("text=You said hello")
    # Counts and speed are there while the answer is still on its way.
    page.wait_for_selector("#speed:has-text('3 tokens · ')")
    expect(page.locator("#stop")).to_be_visible()
    live = page.inner_text("#speed")
    assert "tokens/s" in live
    assert "first token" in live
    go_on.set()
    wait_for_end(page)
    expect(page.locator(".stats")).to_contain_text("3 tokens", use_inner_text=True)
    assert fake.headers[-1]["authorization"] == "Bearer secret"
    reload(page)
    expect(last_answer(page)).to_have_text("You said hello", use_inner_text=True)
    expect(page.locator(".stats")).to_contain_text("3 tokens", use_inner_text=True)


def test_the_servers_own_counts_are_shown(page, fake):
    fake.usage = {"prompt_tokens": 45, "completion_tokens": 1234, "metrics": {"tokens_per_second": 31.25}}
    ask(page, "hello")
    stats = page.inner_text(".stats")
    assert "1,234 tokens" in stats
    assert "31.3 tokens/s" in stats or "31.2 tokens/s" in stats
    assert "prompt 45 tokens" in stats


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stop_is_seen_by_the_server_and_keeps_what_came(page, fake, how):
    fake.script = lambda _: (part for _ in range(10_000) for part in ("more ", 0.01))
    ask(page, "endless", done=False)
    page.wait_for_selector(".assistant .body:has-text('more more')")
    if how == "button":
        page.click("#stop")
    else:
        page.keyboard.press("Escape")
    assert fake.cancelled.wait(5)
    wait_for_end(page)
    assert last_answer(page).inner_text().startswith("more more")
    assert page.locator(".failure").count() == 0


def test_stop_before_the_first_token_leaves_the_question(page, fake):
    fake.script = lambda _: [{}, 0.2, {}, 0.2, {}, 0.2, {}, 0.2, {}, 0.2, "late"]
    ask(page, "slow", done=False)
    page.wait_for_selector("#speed:has-text('Waiting for the first token')")
    page.click("#stop")
    wait_for_end(page)
    expect(page.locator(".user")).to_have_count(1)
    expect(page.locator(".assistant")).to_have_count(0)
    ask(page, "again")
    assert contents(fake.requests[-1]["messages"]) == ["slow", "again"]


def test_regenerating_keeps_the_earlier_answer(page, fake):
    ask(page, "one")
    fake.script = lambda text: [f"Another {text}"]
    tool(page, "Answer again").click()
    page.wait_for_selector("text=Another one")
    wait_for_end(page)
    assert fake.requests[0]["messages"] == fake.requests[1]["messages"]
    expect(page.locator(".assistant .versions")).to_have_text("2/2", use_inner_text=True)
    tool(page, "Earlier version").click()
    expect(last_answer(page)).to_have_text("You said one", use_inner_text=True)
    reload(page)
    expect(last_answer(page)).to_have_text("You said one", use_inner_text=True)
    tool(page, "Later version").click()
    expect(last_answer(page)).to_have_text("Another one", use_inner_text=True)


def test_editing_changes_nothing_until_it_is_sent(page, fake):
    ask(page, "one")
    ask(page, "two")
    edit = page.locator(".user").first.get_by_role("button", name="Edit")
    edit.click()
    page.fill(".editor textarea", "changed")
    page.press(".editor textarea", "Escape")
    expect(page.locator(".message")).to_have_count(4)
    expect(page.locator(".user .body").first).to_have_text("one", use_inner_text=True)
    assert len(fake.requests) == 2
    edit.click()
    page.fill(".editor textarea", "changed")
    page.press(".editor textarea", "Enter")
    wait_for_end(page)
    assert contents(fake.requests[-1]["messages"]) == ["changed"]
    expect(last_answer(page)).to_have_text("You said changed", use_inner_text=True)
    # What followed the first version is still there.
    tool(page, "Earlier version", of=".user").click()
    expect(page.locator(".user .body")).to_have_text(["one", "two"], use_inner_text=True)


def test_continuing_goes_on_where_the_answer_ended(page, fake):
    fake.finish_reason = "length"
    ask(page, "one")
    fake.script = lambda _: [", and more"]
    tool(page, "Continue").click()
    page.wait_for_selector("text=, and more")
    wait_for_end(page)
    sent = fake.requests[-1]
    assert sent["continue_final_message"] is True
    assert sent["add_generation_prompt"] is False
    assert sent["messages"][-1] == {"role": "assistant", "content": "You said one"}
    expect(last_answer(page)).to_have_text("You said one, and more", use_inner_text=True)
    expect(page.locator(".assistant")).to_have_count(1)


def test_thinking_is_folded_with_its_time_and_goes_along_when_continued(page, fake):
    fake.script = lambda _: [{"reasoning": "Let me **see**."}, 0.15, "Yes"]
    ask(page, "think")
    assert page.locator("details.thinking").get_attribute("open") is None
    expect(page.locator(".thinking summary")).to_have_text(re.compile(r"^Thought for 0\."), use_inner_text=True)
    page.click(".thinking summary")
    expect(page.locator(".thinking strong")).to_have_text("see", use_inner_text=True)
    tool(page, "Continue").click()
    wait_for_end(page)
    sent = fake.requests[-1]["messages"][-1]
    assert sent["reasoning"] == sent["reasoning_content"] == "Let me **see**."
    ask(page, "more")
    assert not any("reasoning" in message for message in fake.requests[-1]["messages"])


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_think_tags_in_the_content_are_thinking_too(page, fake, size):
    text = "\n<think>\nWhy </thin, <think>?\n</think>\n\nAnswer with `</think>`"
    fake.script = lambda _: [text[i : i + size] for i in range(0, len(text), size)]
    ask(page, "think")
    expect(last_answer(page)).to_have_text("Answer with </think>", use_inner_text=True)
    page.click(".thinking summary")
    page.wait_for_selector(".thinking .prose p")
    expect(page.locator(".thinking .prose")).to_have_text("Why </thin, <think>?", use_inner_text=True)


def test_an_answer_that_only_looks_like_a_tag_is_an_answer(page, fake):
    fake.script = lambda _: ["<thi", "s> is no tag"]
    ask(page, "x")
    expect(last_answer(page)).to_have_text("<this> is no tag", use_inner_text=True)
    assert page.locator(".thinking").count() == 0


def test_thinking_can_be_switched_off(page, fake):
    ask(page, "on")
    assert "chat_template_kwargs" not in fake.requests[-1]
    page.click("#think")
    # vLLM's qwen3 parser sends an answer without tags as thinking: it is shown as the answer it is.
    fake.script = lambda _: [{"reasoning": "Plain answer"}]
    ask(page, "off")
    assert fake.requests[-1]["chat_template_kwargs"] == {"enable_thinking": False}
    expect(last_answer(page)).to_have_text("Plain answer", use_inner_text=True)


def test_another_conversation_leaves_an_answer_running(page, fake):
    go_on = threading.Event()

    def script(text):
        yield "begun "
        if text == "slow":
            go_on.wait(10)
        yield "and ended"

    fake.script = script
    ask(page, "slow", done=False)
    page.wait_for_selector("text=begun")
    page.click("#new")
    page.wait_for_selector(".welcome")
    ask(page, "quick")
    expect(last_answer(page)).to_have_text("begun and ended", use_inner_text=True)
    expect(page.locator("#list .running")).to_have_count(1)
    page.click("#list >> text=slow")
    expect(page.locator("#stop")).to_be_visible()
    assert last_answer(page).inner_text().strip() == "begun"
    go_on.set()
    wait_for_end(page)
    expect(last_answer(page)).to_have_text("begun and ended", use_inner_text=True)
    expect(page.locator("#list .running")).to_have_count(0)


def test_settings_are_sent_and_unset_ones_are_not(page, fake):
    page.click("#options")
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("0.3")
    page.get_by_label("Most tokens").fill("17")
    page.get_by_label("Seed").fill("5")
    page.get_by_label("Seed").press("Tab")
    page.click("#close-settings")
    ask(page, "hello")
    sent = fake.requests[-1]
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (sent["temperature"], sent["max_tokens"], sent["seed"]) == (0.3, 17, 5)
    assert not {"top_p", "top_k", "min_p", "presence_penalty", "repetition_penalty"} & set(sent)
    reload(page)
    page.click("#options")
    page.get_by_role("button", name="Back to the server's defaults").click()
    page.click("#close-settings")
    ask(page, "again")
    assert "temperature" not in fake.requests[-1]


def test_an_example_is_a_question(page, fake):
    page.click(".examples button >> nth=1")
    wait_for_end(page)
    assert "palindrome" in fake.requests[-1]["messages"][0]["content"]
    expect(page.locator(".welcome")).to_have_count(0)
