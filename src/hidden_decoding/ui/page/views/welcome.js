// An empty conversation: what this is, and questions to begin with.
import { el, svg } from "../base/dom.js";
import { t } from "../i18n/index.js";

const EXAMPLES = ["Explain", "Code", "Reason", "Write"];

/** Streams of four tokens, read one after the other. */
function mark() {
  const bars = Array.from({ length: 16 }, (_, index) => {
    const [token, stream] = [Math.floor(index / 4), index % 4];
    const x = token * 22 + stream * 4;
    return svg("rect", { x, y: 8 + stream * 8, width: 12, height: 6, rx: 3, class: `stream-${stream}` });
  });
  return svg("svg", { class: "mark", viewBox: "0 0 92 46", width: 92, height: 46, "aria-hidden": "true" }, ...bars);
}

export function welcome(ask) {
  const cards = EXAMPLES.map((name) => {
    const text = t(`example${name}`);
    return el("button", { type: "button", onclick: () => ask(text) }, el("b", {}, t(`example${name}Title`)), text);
  });
  return el(
    "div",
    { class: "welcome" },
    mark(),
    el("h2", {}, t("welcome")),
    el("p", {}, t("welcomeText")),
    el("div", { class: "examples" }, ...cards),
  );
}
