// What each hidden stream would have predicted: a heat map of the answer, the chosen token's guesses, agreement by
// stream, cosine by depth, and the tables behind the pictures. It is built when it is first opened.
import { el } from "../base/dom.js";
import { icon } from "../base/icons.js";
import { t } from "../i18n/index.js";
import { agreement, mostBits, percent } from "./data.js";
import { depthChart } from "./depth_chart.js";
import { HeatMap, STEPS } from "./heat_map.js";
import { cosineTable, entropyTable, guessTable, streamName } from "./tables.js";

export function lensPanel(lens, { open = false } = {}) {
  const summary = el("summary", {}, icon("lens"), el("span", {}, t("lensTitle", lens.streams)), icon("right"));
  const inside = el("div", { class: "inside" });
  const build = () => {
    if (panel.open && !inside.hasChildNodes()) inside.append(...content(lens));
  };
  const panel = el("details", { class: "lens", open, ontoggle: build }, summary, inside);
  build();
  return panel;
}

function content(lens) {
  const detail = el("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": t("lensChosen") });
  const choose = (index) => detail.replaceChildren(guessTable(lens.tokens[index]));
  const map = new HeatMap(lens, choose);
  const depth = lens.streams > 1 ? [el("h3", {}, t("cosineTitle")), depthChart(lens)] : [];
  return [
    legend(lens),
    map.node,
    detail,
    el("h3", {}, t("agreementTitle")),
    agreementBars(lens),
    ...depth,
    tables(lens),
  ];
}

function legend(lens) {
  const colours = Array.from({ length: STEPS }, (_, step) => el("i", { class: `cell heat-${step}` }));
  return el(
    "div",
    { class: "legend" },
    el("span", { class: "scale" }, "0", ...colours, t("bits", mostBits(lens).toFixed(1))),
    el("span", {}, el("i", { class: "cell heat-3 differs" }), t("differs")),
    el("span", {}, t("lensOrder", lens.streams)),
  );
}

function agreementBars(lens) {
  const rows = Array.from({ length: lens.streams }, (_, stream) => {
    const share = agreement(lens, stream);
    const fill = el("i");
    fill.style.inlineSize = percent(share);
    return [el("dt", {}, streamName(stream)), el("dd", {}, el("span", { class: "track" }, fill), percent(share))];
  });
  return el("dl", { class: "agreement" }, ...rows.flat());
}

/** Thousands of cells: made when somebody wants them. */
function tables(lens) {
  const inside = el("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": t("asTables") });
  const fill = () => {
    if (!inside.hasChildNodes()) inside.append(entropyTable(lens), cosineTable(lens));
  };
  return el("details", { class: "tables", ontoggle: fill }, el("summary", {}, t("asTables")), inside);
}
