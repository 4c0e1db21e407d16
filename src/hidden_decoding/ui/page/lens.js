// What each stream would have predicted: a heat map of entropy (a cross where a stream disagrees with the last), and tables.
import { el } from "./dom.js";
import { t } from "./i18n/index.js";
const svg = (name, attributes, ...children) => { const node = document.createElementNS("http://www.w3.org/2000/svg", name); for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v); node.append(...children); return node; };
const percent = (p) => `${(100 * p).toFixed(1)}%`;
export function lensPanel({ tokens, streams, layers = [], cosine = [] }) {
  const size = 18, detail = el("div", { role: "status" });
  const most = Math.max(1, ...tokens.flatMap((token) => token.streams.map((s) => s.entropy_bits)));
  const show = (token) => detail.replaceChildren(el("table", {}, el("tbody", {}, ...token.streams.map((s, i) => el("tr", {}, el("th", {}, `${t("stream")} ${i + 1}`), ...s.top.map((x) => el("td", {}, `${x.token} ${percent(x.probability)}`)))))));
  const picture = svg("svg", { role: "img", "aria-label": `${t("lens")}: ${t("entropy")}`, width: tokens.length * size, height: streams * size });
  const rows = tokens.map((token, x) => {
    token.streams.forEach((s, y) => picture.append(svg("rect", { x: x * size, y: y * size, width: size - 1, height: size - 1, fill: "currentColor", "fill-opacity": 0.08 + 0.8 * s.entropy_bits / most }),
      ...(s.agrees ? [] : [svg("text", { x: x * size + 5, y: y * size + 13, "font-size": 12, fill: "var(--bad)" }, "×")])));
    return el("tr", {}, el("th", {}, el("button", { type: "button", onclick: () => show(token) }, token.token)), ...token.streams.map((s) => el("td", {}, `${s.entropy_bits.toFixed(2)}${s.agrees ? " ✓" : " ×"}`)));
  });
  const names = Array.from({ length: streams }, (_, i) => el("th", {}, `${t("stream")} ${i + 1}`));
  return el("details", { class: "lens" }, el("summary", {}, t("lens")), el("div", { tabindex: 0 }, picture), el("p", {}, `${t("entropy")}; ✓ ${t("agrees")}`),
    el("table", {}, el("thead", {}, el("tr", {}, el("th", {}, t("token")), ...names)), el("tbody", {}, ...rows)), detail,
    ...(cosine.length ? [el("p", {}, t("cosine")), el("table", {}, el("tbody", {}, ...cosine.map((row, i) => el("tr", {}, el("th", {}, String(layers[i] ?? i)), ...row.map((c) => el("td", {}, c.toFixed(3)))))))] : []));
}
