// Markdown while it arrives: finished blocks become DOM once and are never touched again; only the last block is redrawn.
// Raw HTML is shown as text; what marked makes is sanitised; images of any host become their alt text.
import { el } from "./dom.js";
import { t } from "./i18n/index.js";
let libraries;
export const load = () => (libraries ??= setUp());
async function setUp() {
  const [{ Marked }, { default: purify }] = await Promise.all([import("./vendor/marked.js"), import("./vendor/purify.js")]);
  const escape = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
  const math = (level, start, display, plain) => ({ name: plain, level, start: (s) => s.search(start),
    tokenizer(s) { const m = display.exec(s); return m ? { type: plain, raw: m[0], text: (m[1] ?? m[2]).trim() } : undefined; },
    renderer: (token) => `<span class="math" title="${plain}">${escape(token.text)}</span>` });
  const marked = new Marked({ gfm: true });
  marked.use({ extensions: [
    math("block", /\$\$|\\\[/, /^(?:\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\])(?:\s*\n|$)/, "display"),
    math("inline", /\$|\\\(/, /^(?:\$(?!\s)([^$\n]+?)(?<!\s)\$(?!\d)|\\\(([^\n]+?)\\\))/, "inline")],
    renderer: { html: ({ text }) => escape(text), image: ({ text }) => escape(text || "") , checkbox: ({ checked }) => (checked ? "☑ " : "☐ ") } });
  purify.addHook("afterSanitizeAttributes", (node) => { if (node.tagName === "A") { node.setAttribute("target", "_blank"); node.setAttribute("rel", "noopener noreferrer nofollow"); } });
  const options = { ALLOWED_TAGS: "p br hr strong em del code pre blockquote ul ol li h1 h2 h3 h4 h5 h6 table thead tbody tr th td a span".split(" "),
    ALLOWED_ATTR: ["href", "class", "title", "start", "align"], ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i, ALLOW_DATA_ATTR: false, RETURN_DOM_FRAGMENT: true };
  return { marked, fragment: (token) => purify.sanitize(marked.parser([token]), options) };
}
const known = new Set("bash c cpp css diff go java javascript json markdown python rust sql typescript xml yaml".split(" "));
const alias = { js: "javascript", ts: "typescript", py: "python", sh: "bash", html: "xml", yml: "yaml", md: "markdown", "c++": "cpp", rs: "rust" };
async function highlight(code, language) {
  const name = alias[language] ?? language;
  if (!known.has(name)) return;
  const [{ default: hljs }, { default: grammar }] = await Promise.all([import("./vendor/highlight.js"), import(`./vendor/languages/${name}.js`)]);
  if (!hljs.getLanguage(name)) hljs.registerLanguage(name, grammar);
  code.innerHTML = hljs.highlight(code.textContent, { language: name }).value; // hljs escapes the code it is given
}
let katex;
const loadKatex = () => (katex ??= new Promise((done, fail) => {
  document.head.append(el("link", { rel: "stylesheet", href: "vendor/katex.css" }), el("script", { src: "vendor/katex.js", onload: () => done(window.katex), onerror: fail }));
}));
async function finish(block) { // what is drawn once, when a block is complete
  for (const code of block.querySelectorAll("pre > code")) highlight(code, (code.className.match(/language-(\S+)/) ?? [])[1]).catch(() => {});
  for (const node of block.querySelectorAll(".math")) {
    const tex = node.textContent, displayMode = node.title === "display";
    node.removeAttribute("title");
    loadKatex().then((k) => k.render(tex, node, { displayMode, throwOnError: false, trust: false, maxExpand: 200, maxSize: 50 })).catch(() => {});
  }
}
function decorate(block) {
  for (const pre of block.querySelectorAll("pre")) {
    pre.tabIndex = 0;
    const code = pre.firstElementChild, button = el("button", { type: "button", onclick: async () => { await navigator.clipboard.writeText(code.textContent); button.textContent = t("copied"); } }, t("copy"));
    const frame = el("div", { class: "code" }, el("div", {}, el("span", {}, (code?.className.match(/language-(\S+)/) ?? ["", ""])[1]), button));
    pre.replaceWith(frame);
    frame.append(pre);
  }
}
export class MarkdownView {
  constructor(node) { this.node = node; this.done = 0; this.last = null; this.drawn = ""; }
  async update(text, complete = false) {
    const { marked, fragment } = await load();
    if (text.length < this.done) return;
    const tail = text.slice(this.done);
    if (tail === this.drawn && !complete) return;
    this.drawn = tail;
    const tokens = marked.lexer(tail);
    let lastReal = tokens.findLastIndex((token) => token.type !== "space");
    // An open $$ or \[ keeps everything after it unfinished.
    const open = tokens.findIndex((token) => /^(\$\$|\\\[)/.test(token.raw) && token.type !== "display");
    if (open >= 0 && !complete) lastReal = Math.min(lastReal, open);
    let first = this.last;
    this.last = null;
    for (const [index, token] of tokens.entries()) {
      const finished = complete || index < lastReal;
      if (finished) { this.done += token.raw.length; this.drawn = ""; }
      if (token.type === "space" || token.type === "def") continue;
      const block = first ?? this.node.appendChild(el("div"));
      first = null;
      block.replaceChildren(fragment(Object.assign(token)));
      decorate(block);
      if (finished) { block.dataset.finished = ""; finish(block); } else { this.last ??= block; if (index > lastReal) break; if (open >= 0 && index >= lastReal) { block.textContent = tokens.slice(index).map((x) => x.raw).join(""); break; } }
    }
  }
}
