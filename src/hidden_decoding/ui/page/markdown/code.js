// Blocks of code: a frame with the language and a copy button; colours once the block is complete.
import { el } from "../base/dom.js";
import { icon } from "../base/icons.js";
import { copyText } from "../base/platform.js";
import { t } from "../i18n/index.js";

const KNOWN = new Set(
  "bash c cpp css diff go java javascript json markdown python rust sql typescript xml yaml".split(" "),
);
const ALIASES = {
  "c++": "cpp",
  console: "bash",
  html: "xml",
  js: "javascript",
  jsx: "javascript",
  md: "markdown",
  py: "python",
  python3: "python",
  rs: "rust",
  sh: "bash",
  shell: "bash",
  svg: "xml",
  ts: "typescript",
  tsx: "typescript",
  yml: "yaml",
};
const TOO_LONG = 100_000; // characters: colouring them would take longer than anybody waits

/** A frame around `pre`, whose code is copied as it is when the button is pressed. */
export function codeFrame(pre, language) {
  const onclick = () => onCopy(copy, pre);
  const copy = el("button", { type: "button", class: "quiet", onclick }, icon("copy"), t("copy"));
  pre.tabIndex = 0;
  pre.setAttribute("role", "region");
  pre.setAttribute("aria-label", language ? `${t("code")}: ${language}` : t("code"));
  return el("div", { class: "code" }, el("div", { class: "code-head" }, el("span", {}, language), copy), pre);
}

async function onCopy(button, pre) {
  await copyText(pre.textContent);
  button.replaceChildren(icon("check"), t("copied"));
  setTimeout(() => button.replaceChildren(icon("copy"), t("copy")), 1500);
}

/** Frames around all code in a piece of a message. */
export function frameCode(root) {
  for (const pre of root.querySelectorAll("pre")) {
    const holder = document.createComment("");
    pre.replaceWith(holder);
    holder.replaceWith(codeFrame(pre, languageOf(pre.firstElementChild)));
  }
}

const languageOf = (code) => code?.className.match(/language-(\S+)/)?.[1] ?? "";

/** Colours all code inside a finished block. */
export async function colourCode(block) {
  for (const code of block.querySelectorAll("pre > code:not(.coloured)")) {
    const named = languageOf(code).toLowerCase();
    const language = ALIASES[named] ?? named;
    if (KNOWN.has(language) && code.textContent.length < TOO_LONG) await colour(code, language);
  }
}

async function colour(code, language) {
  const [{ default: hljs }, { default: grammar }] = await Promise.all([
    import("../vendor/highlight.js"),
    import(`../vendor/languages/${language}.js`),
  ]);
  if (!hljs.getLanguage(language)) hljs.registerLanguage(language, grammar);
  code.classList.add("coloured");
  code.innerHTML = hljs.highlight(code.textContent, { language }).value; // highlight.js escapes the code it is given
}
