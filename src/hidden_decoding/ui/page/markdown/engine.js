// Markdown -> safe DOM. Model text is hostile: raw HTML is shown as text, images become their alt text (no request goes
// to another host), and what marked makes of the rest is sanitised to a short list of tags, attributes and schemes.
import { escape } from "./escape.js";
import { extensions } from "./mathematics.js";

const TAGS =
  "p br hr strong em del code pre blockquote ul ol li h1 h2 h3 h4 h5 h6 table thead tbody tr th td a span".split(" ");

const SANITISING = {
  ALLOWED_TAGS: TAGS,
  ALLOWED_ATTR: ["href", "class", "title", "start", "align"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ADD_URI_SAFE_ATTR: ["start", "align"], // no addresses, so not held to that pattern
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

const renderer = {
  html: ({ text }) => escape(text),
  image: ({ text }) => escape(text),
  checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
};

let engine;

/** Loaded with the first answer: {lexer(text) -> tokens, fragment(token) -> DOM}. */
export function loadEngine() {
  engine ??= setUp();
  return engine;
}

async function setUp() {
  const [{ Marked }, { default: purify }] = await Promise.all([
    import("../vendor/marked.js"),
    import("../vendor/purify.js"),
  ]);
  const marked = new Marked({ gfm: true });
  marked.use({ extensions, renderer });
  purify.addHook("afterSanitizeAttributes", keepOutside);
  return {
    lexer: (text) => marked.lexer(text),
    fragment: (token) => purify.sanitize(marked.parser([token]), SANITISING),
  };
}

/** Links open elsewhere and tell the other site nothing. */
function keepOutside(node) {
  if (node.tagName !== "A") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer nofollow");
}
