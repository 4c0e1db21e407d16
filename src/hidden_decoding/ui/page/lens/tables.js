// The same numbers as tables: for eyes that want digits, and for those who cannot see the picture.
import { el } from "../base/dom.js";
import { t } from "../i18n/index.js";
import { percent, shownAlone } from "./data.js";

export const streamName = (index) => t("stream", index + 1);

const head = (texts) => el("thead", {}, el("tr", {}, ...texts.map((text) => el("th", { scope: "col" }, text))));
const row = (title, cells) => el("tr", {}, el("th", { scope: "row" }, title), ...cells);
const streams = (lens) => Array.from({ length: lens.streams }, (_, index) => streamName(index));

/** One token: every stream's likeliest tokens, its entropy, and whether it agrees. */
export function guessTable(token) {
  const ranks = token.streams[0].top.map((_, rank) => t("guess", rank + 1));
  const rows = token.streams.map((stream, index) => {
    const mark = el("td", { class: stream.agrees ? "agrees" : "differs" }, t(stream.agrees ? "yes" : "no"));
    const bits = el("td", { class: "number" }, stream.entropy_bits.toFixed(2));
    return row(streamName(index), [mark, bits, ...stream.top.map(guessCell)]);
  });
  return el(
    "table",
    { class: "guesses" },
    el("caption", {}, t("lensChosen"), " ", el("code", {}, shownAlone(token.token))),
    head([t("streamColumn"), t("agreesColumn"), t("entropyColumn"), ...ranks]),
    el("tbody", {}, ...rows),
  );
}

function guessCell(guess) {
  const bar = el("i", { class: "bar" });
  bar.style.inlineSize = percent(guess.probability);
  return el("td", {}, el("code", {}, shownAlone(guess.token)), el("small", {}, percent(guess.probability)), bar);
}

/** All tokens: entropy and agreement of every stream. */
export function entropyTable(lens) {
  const cell = (stream) => el("td", {}, `${stream.entropy_bits.toFixed(2)} ${stream.agrees ? "✓" : "≠"}`);
  const rows = lens.tokens.map((token) => row(shownAlone(token.token), token.streams.map(cell)));
  const caption = el("caption", {}, t("entropyCaption"));
  return el("table", {}, caption, head([t("tokenColumn"), ...streams(lens)]), el("tbody", {}, ...rows));
}

/** Mean cosine with the last stream of the same token, by layer. */
export function cosineTable(lens) {
  const rows = lens.cosine.map((values, layer) => {
    const cells = values.map((value) => el("td", {}, value.toFixed(3)));
    return row(lens.layers[layer], cells);
  });
  const caption = el("caption", {}, t("cosineCaption"));
  return el("table", {}, caption, head([t("layerColumn"), ...streams(lens)]), el("tbody", {}, ...rows));
}
