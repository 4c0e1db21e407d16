// What each stream would have predicted: a heat map of entropy with a cross where a stream disagrees with the last one,
// the chosen token's guesses, and the same numbers as tables. Data: the `stream_lens` field of the server's answer.
import { el } from "./dom.js";
import { t } from "./i18n/index.js";

const CELL = 18; // pixels a side
const SVG = "http://www.w3.org/2000/svg";
const percent = (share) => `${(100 * share).toFixed(1)}%`;
// White space would not be seen.
const shown = (text) => text.replace(/^ /, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥");

function svg(name, attributes, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function heatMap(lens, choose) {
  const most = Math.max(1, ...lens.tokens.flatMap((token) => token.streams.map((stream) => stream.entropy_bits)));
  const size = { width: lens.tokens.length * CELL, height: lens.streams * CELL };
  const picture = svg("svg", { role: "img", "aria-label": `${t("lens")}: ${t("entropy")}`, ...size });
  lens.tokens.forEach((token, column) => {
    const cells = token.streams.flatMap((stream, row) => {
      const at = { x: column * CELL, y: row * CELL, width: CELL - 1, height: CELL - 1 };
      const strength = 0.06 + 0.8 * (stream.entropy_bits / most);
      const square = svg("rect", { ...at, class: "cell", "fill-opacity": strength.toFixed(3) });
      const mark = svg("text", { x: at.x + CELL / 2 - 0.5, y: at.y + CELL / 2 + 4, class: "cross" }, "×");
      return stream.agrees ? [square] : [square, mark];
    });
    const title = svg("title", {}, shown(token.token));
    // The gaps between the cells belong to the column too.
    const ground = svg("rect", { x: column * CELL, y: 0, width: CELL, height: size.height, fill: "transparent" });
    const group = svg("g", { class: "column" }, title, ground, ...cells);
    group.addEventListener("click", () => choose(token));
    picture.append(group);
  });
  return picture;
}

function guesses(token, streamName) {
  const rows = token.streams.map((stream, index) => {
    const cells = stream.top.map((guess) => el("td", {}, `${shown(guess.token)} ${percent(guess.probability)}`));
    return el("tr", {}, el("th", { scope: "row" }, streamName(index)), ...cells);
  });
  return el("table", {}, el("caption", {}, `${t("token")}: ${shown(token.token)}`), el("tbody", {}, ...rows));
}

function entropyTable(lens, heads, choose) {
  const rows = lens.tokens.map((token) => {
    const button = el("button", { type: "button", onclick: () => choose(token) }, shown(token.token) || "∅");
    const cells = token.streams.map((stream) => {
      return el("td", {}, `${stream.entropy_bits.toFixed(2)} ${stream.agrees ? "✓" : "×"}`);
    });
    return el("tr", {}, el("th", { scope: "row" }, button), ...cells);
  });
  const head = el("tr", {}, el("th", { scope: "col" }, t("token")), ...heads());
  return el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows));
}

function cosineTable(lens, heads) {
  const rows = lens.cosine.map((values, layer) => {
    const cells = values.map((value) => el("td", {}, value.toFixed(3)));
    return el("tr", {}, el("th", { scope: "row" }, String(lens.layers?.[layer] ?? layer)), ...cells);
  });
  const head = el("tr", {}, el("td", {}), ...heads());
  return el("table", {}, el("caption", {}, t("cosine")), el("thead", {}, head), el("tbody", {}, ...rows));
}

export function lensPanel(lens) {
  const streamName = (index) => `${t("stream")} ${index + 1}`;
  const heads = () => Array.from({ length: lens.streams }, (_, i) => el("th", { scope: "col" }, streamName(i)));
  const detail = el("div", { role: "status" });
  const choose = (token) => detail.replaceChildren(guesses(token, streamName));
  const agreeing = (index) => lens.tokens.filter((token) => token.streams[index].agrees).length / lens.tokens.length;
  const shares = Array.from({ length: lens.streams }, (_, index) => `${streamName(index)} ${percent(agreeing(index))}`);
  return el(
    "details",
    { class: "lens" },
    el("summary", {}, t("lens")),
    el("p", {}, `${t("entropy")}; × ${t("disagrees")}`),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("lens") }, heatMap(lens, choose)),
    el("p", {}, `${t("agrees")}: ${shares.join(" · ")}`),
    detail,
    el("details", {}, el("summary", {}, t("table")), entropyTable(lens, heads, choose), cosineTable(lens, heads)),
  );
}
