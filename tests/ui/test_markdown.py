"""Answers as markdown: safe, complete, and drawn in pieces to the same result as at once."""

from __future__ import annotations

import json
import random

import pytest
from playwright.sync_api import expect

from tests.contract.source import ROOT
from tests.ui.browsing import ask, last_answer, until, wait_for_end

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
    "<div id=input name=send style='position:fixed;inset:0'>x</div>", "[a](vbscript:window.hit=1)", "[a](//evil.test)", "[![a](https://evil.test/a.png)](https://evil.test)",
    "- <img src=x onerror=window.hit=1>\n- [a](javascript&colon;window.hit=1)", "$\\def\\a{\\a\\a}\\a$", "```\"><img src=x onerror=window.hit=1>\nx\n```",
    "<noscript><p title=\"</noscript><img src=x onerror=window.hit=1>\">", "[a](https://x \"'onclick=window.hit=1\")", "<a id=messages><a id=messages name=composer>", "\u202e[a](javascript:window.hit=1)\u0000",
]  # fmt: skip

FORBIDDEN = (
    "#messages :is(script,img,iframe,style,form,input,base,meta,object,embed,video,link,[onerror],[onload],[ontoggle],"
    "[onclick],[onmouseover],.prose [id],.prose [name])"
)

# What is drawn, without what says nothing: white space between tags, and lines of code grouped while they came.
DRAWN = r"""() => [...document.querySelectorAll('.assistant .body')].at(-1).innerHTML
    .replace(/<span class="lines">([^]*?)<\/span>/g, "$1").replace(/>\s+</g, "><")"""


def test_hostile_text_stays_text(page, fake):
    for text in HOSTILE:
        fake.script = lambda _, text=text: [text[: len(text) // 2], text[len(text) // 2 :]]
        ask(page, "x")
    assert page.evaluate("window.hit") is None
    assert page.locator(FORBIDDEN).count() == 0
    links = page.eval_on_selector_all("#messages a", "all => all.map(a => [a.getAttribute('href'), a.rel, a.target])")
    assert links
    for href, rel, target in links:
        assert href is None or href.startswith(("http:", "https:", "mailto:"))
        assert (rel, target) == ("noopener noreferrer nofollow", "_blank")
    # Hostile questions and thinking, too.
    fake.script = lambda _: [{"reasoning": "".join(HOSTILE)}, "x"]
    ask(page, "<img src=x onerror=window.hit=1>")
    page.locator(".thinking summary").last.click()
    page.wait_for_selector(".thinking .prose >> nth=-1 >> p >> nth=0")
    assert page.evaluate("window.hit") is None
    assert page.locator(FORBIDDEN).count() == 0


def test_markdown_code_tables_and_mathematics(page, fake):
    fake.script = lambda _: [
        "# T\n\n```python\nx = 1\n```\n\n|a|b|\n|-|-:|\n|1|2|\n\n$$\nx^2\n\n+1\n$$\n\nand $y$, \\(z\\)\n\n7. seven"
    ]
    ask(page, "x")
    page.wait_for_selector(".katex-display")
    page.wait_for_selector(".hljs-number")
    expect(page.locator("table td")).to_have_count(2)
    assert page.locator("table td").last.evaluate("node => getComputedStyle(node).textAlign") == "end"
    expect(page.locator(".katex")).to_have_count(3)
    expect(page.locator("ol")).to_have_attribute("start", "7")
    # Commands for which KaTeX sets style attributes, and what is no LaTeX.
    fake.script = lambda _: [
        r"$\boxed{4}$ $\pmb{x}$ $\color{red}y$ $\fcolorbox{red}{blue}{z}$ $\sqrt[3]{x}$ $\frac{1$ $\x$"
    ]
    ask(page, "y")
    expect(last_answer(page).locator(".katex")).to_have_count(5)
    expect(last_answer(page).locator(".source")).to_have_text([r"\frac{1", r"\x"], use_inner_text=True)


def test_mathematics_needs_its_dollars(page, fake):
    fake.script = lambda _: ["5$ and 6$, $ x$\n\n- [x] done"]
    ask(page, "x")
    expect(last_answer(page)).to_contain_text("5$ and 6$, $ x$", use_inner_text=True)
    expect(last_answer(page)).to_contain_text("☑ done", use_inner_text=True)


def test_code_is_copied_as_it_is(browser, page, fake):
    code = "def f():\n\n    return '<b>'\n" + "x = 1\n" * 200
    fake.script = lambda _: ["```python\n", *(line + "\n" for line in code.split("\n")[:-1]), "```\n\nend"]
    ask(page, "x")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").first.focus()
    page.locator(".code").get_by_role("button", name="Copy").click()
    page.wait_for_selector(".code-head:has-text('Copied')")
    assert page.evaluate("navigator.clipboard.readText()").rstrip("\n") == code.rstrip("\n")


TEXTS = {
    "lists": "Intro\n\n1. one\n\n2. two\n   - a\n   - b\n\n     more\n3. three\n\nEnd\n\n* x\n* y\n\n  z\n\n- [ ] t\n",
    "tables": "Text\n|a|b|\n|-|-|\n|1|`2`|\n|3|**4**|\n\nAfter\n\n| x |\n|---|\n| y |\n",
    "code": "```python\nx = 1\n\n```js\n~~~\n``\n```\n\n~~~\n```\n~~~\n\n    indented\n\n    more\n\nend `` ` `` end\n",
    "mathematics": "Then\n\\[\nx\n\n+ y\n\\]\nand $$z$$ and $a$\n\n$$\n\\frac{1}{2}\n$$\n\nnever closed: $$ x\n\n- $q$\n- r\n",
    "headings": "Title\n===\n\nSub\n---\n\n## Three\n> quote\n> - in it\n\nlazy\n***\ntext\n\n<div>\n\nhtml\n\n<!-- a\n\nb -->\n",
}


@pytest.mark.parametrize("name", [*TEXTS, "README.md", "docs/serving.md"])
def test_any_pieces_give_what_the_whole_gives(page, fake, name):
    text = TEXTS.get(name) or (ROOT / name).read_text()
    fake.script = lambda _: [text]
    ask(page, "whole")
    whole = page.evaluate(DRAWN)
    draw = random.Random(name)
    for largest in (1, 7) if name in TEXTS else (40,):
        pieces = []
        rest = text
        while rest:
            size = draw.randint(1, largest)
            pieces.append(rest[:size])
            rest = rest[size:]
        # Every piece is drawn by itself, as a slow server would have it.
        page.evaluate(
            """async (pieces) => {
              const { MarkdownView } = await import('./markdown/view.js');
              const node = document.createElement('div');
              document.querySelector('.assistant:last-child .body').replaceChildren(node);
              const view = new MarkdownView(node);
              let text = '';
              for (const piece of pieces) await view.update((text += piece));
              await view.update(text, true);
              node.replaceWith(...node.childNodes);
            }""",
            pieces,
        )
        drawn = page.evaluate(DRAWN)
        differs = next((i for i, pair in enumerate(zip(drawn, whole, strict=False)) if pair[0] != pair[1]), 0)
        around = slice(max(0, differs - 80), differs + 200)
        assert drawn == whole, f"{drawn[around]}\n-- and as a whole --\n{whole[around]}"


WATCH = """() => {
  window.faults = [];
  window.finished = new Set();
  const finishedAround = (node) => (node.nodeType === 1 ? node : node.parentElement)?.closest('[data-finished]');
  const observer = new MutationObserver((all) => {
    for (const change of all) {
      const block = finishedAround(change.target);
      if (block && window.finished.has(block)) window.faults.push(`${change.type} in ${block.textContent.slice(0, 40)}`);
      for (const node of change.removedNodes) if (window.finished.has(node)) window.faults.push('removed');
      if (change.type === 'attributes') window.finished.add(change.target);
    }
  });
  observer.observe(document.getElementById('messages'),
    {subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ['data-finished']});
}"""


def test_finished_blocks_are_never_replaced_in_20_000_tokens(page, fake):
    source = (ROOT / "docs" / "serving.md").read_text()
    block = f"## Part\n\nSome *words* with $x^2$.\n\n{source}\n\n```python\nx = [1, 2]\n```\n\n"
    tokens = (block * 50)[: 20_000 * 4]
    fake.script = lambda _: (tokens[i : i + 4] for i in range(0, len(tokens), 4))
    page.evaluate(WATCH)
    ask(page, "long", done=False)
    wait_for_end(page, 120)
    assert page.evaluate("window.faults") == []
    blocks = page.evaluate("document.querySelectorAll('.assistant .body > .block').length")
    assert page.evaluate("window.finished.size") == blocks > 200
    expect(page.locator(".stats")).to_contain_text("20,000 tokens", use_inner_text=True)
    assert page.evaluate("document.querySelectorAll('.assistant .katex').length") > 5


def test_a_long_list_redraws_only_its_last_item(page, fake):
    page.evaluate(
        """() => {
          window.removed = 0;
          new MutationObserver((all) => {
            for (const { removedNodes } of all) for (const node of removedNodes) if (node.tagName === 'LI') window.removed += 1;
          }).observe(document.getElementById('messages'), {subtree: true, childList: true});
        }"""
    )
    fake.script = lambda _: (piece for i in range(200) for piece in (f"- item **{i}**", f" more {i}\n", 0.002))
    ask(page, "list")
    expect(page.locator(".assistant li")).to_have_count(200)
    # Each drawing replaces one item, not all of them.
    assert page.evaluate("window.removed") <= 400


def test_the_reader_who_scrolls_up_is_left_there(page, fake):
    fake.script = lambda _: (piece for i in range(300) for piece in (f"line {i}\n\n", 0.004))
    ask(page, "long", done=False)
    until(page, "document.getElementById('messages').scrollHeight > 2500")
    page.hover("#messages")
    page.mouse.wheel(0, -900)
    page.wait_for_timeout(150)
    place = page.evaluate("document.getElementById('messages').scrollTop")
    page.wait_for_timeout(300)
    assert page.evaluate("document.getElementById('messages').scrollTop") == place
    page.click("#to-end")
    wait_for_end(page)
    distance = "(box => box.scrollHeight - box.scrollTop - box.clientHeight)(document.getElementById('messages'))"
    assert page.evaluate(distance) < 30


def test_json_of_a_conversation_holds_the_text_as_it_came(page, fake):
    text = "a\r\nb\t\u2028 <b> 😀 \\"
    fake.script = lambda _: [text]
    ask(page, text.strip())
    page.click("#options")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="All as JSON").click()
    messages = json.loads(waiting.value.path().read_text())["conversations"][0]["messages"]
    assert messages[1]["content"] == text
