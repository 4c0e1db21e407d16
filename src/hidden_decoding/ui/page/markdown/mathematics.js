// LaTeX: marked finds it, KaTeX draws it. `$x$`, `\(x\)`, `$$x$$` and `\[x\]`; a dollar before a digit is money.
import { el } from "../base/dom.js";
import { escape } from "./escape.js";

const LIMITS = { trust: false, maxExpand: 200, maxSize: 50, strict: "ignore" };

const rule = (level, start, pattern, kind) => ({
  name: kind,
  level,
  start: (text) => text.search(start),
  tokenizer(text) {
    const found = pattern.exec(text);
    return found ? { type: kind, raw: found[0], text: (found[1] ?? found[2] ?? found[3]).trim() } : undefined;
  },
  renderer: (token) => `<span class="math" title="${kind}">${escape(token.text)}</span>`,
});

export const extensions = [
  rule("block", /\$\$|\\\[/, /^(?:\$\$((?:(?!\$\$)[\s\S])+)\$\$|\\\[([\s\S]+?)\\\])[ \t]*(?:\n|$)/, "display"),
  rule("inline", /\$|\\\(/, /^(?:\$\$([^$\n]+)\$\$|\$(?!\s)([^$\n]+?)(?<!\s)\$(?!\d)|\\\(([^\n]+?)\\\))/, "inline"),
];

/** Whether display mathematics begins in a paragraph and has not ended: a blank line inside it would be no end. */
export function isOpen(token) {
  if (token.type !== "paragraph") return false;
  const dollars = token.raw.split("$$").length - 1;
  return dollars % 2 === 1 || token.raw.lastIndexOf("\\[") > token.raw.lastIndexOf("\\]");
}

let loading;
let katex;

/** KaTeX is a classic script: it comes with its style sheet when an answer first needs it. */
function load() {
  loading ??= new Promise((done, fail) => {
    document.head.append(
      el("link", { rel: "stylesheet", href: "vendor/katex.css" }),
      el("script", { src: "vendor/katex.js", onload: done, onerror: fail }),
    );
  }).then(() => {
    katex = window.katex;
  });
  return loading;
}

/** Draws the mathematics inside `root` at once when KaTeX is there; else it is only asked to come. */
export function drawMathematicsNow(root) {
  const places = root.querySelectorAll(".math");
  if (!places.length) return;
  if (katex) places.forEach(drawOne);
  else load().catch(() => {});
}

/** Draws it in any case. */
export async function drawMathematics(root) {
  if (!root.querySelector(".math")) return;
  await load();
  root.querySelectorAll(".math").forEach(drawOne);
}

/** What is no LaTeX, or not yet, stays as its source. */
function drawOne(place) {
  const displayMode = place.title === "display";
  const source = place.textContent;
  place.removeAttribute("title");
  place.className = displayMode ? "formula display" : "formula";
  try {
    // KaTeX's own `render` sets style attributes, which the page's policy forbids; styles set by script are allowed.
    const tree = katex.__renderToDomTree(source, { displayMode, ...LIMITS });
    withoutStyleAttributes(tree);
    place.replaceChildren(tree.toNode());
  } catch {
    place.classList.add("source");
  }
}

/** They repeat for the hidden MathML what the visible part has as styles, such as the frame of \boxed. */
function withoutStyleAttributes(node) {
  if (node.attributes) delete node.attributes.style;
  node.children?.forEach(withoutStyleAttributes);
}
