// How far each stream is from the last one of the same token, layer by layer: a line per stream.
import { svg } from "../base/dom.js";
import { t } from "../i18n/index.js";
import { streamName } from "./tables.js";

// Units are pixels where there is room; a narrower picture keeps its letters readable on a phone.
const SIZE = { width: matchMedia("(max-width: 760px)").matches ? 340 : 640, height: 180 };
const EDGE = { left: 40, right: 84, top: 12, bottom: 28 };
const APART = 14; // pixels between two names at the ends of the lines

const across = (layer, layers) => EDGE.left + (layer * (SIZE.width - EDGE.left - EDGE.right)) / Math.max(1, layers - 1);

/** Height of a value, on a scale that ends at 1; streams that are much alike get a scale that tells them apart. */
function scale(lens) {
  const lowest = Math.min(...lens.cosine.flat());
  const least = lowest > 0.5 ? Math.min(0.95, Math.floor(lowest * 20) / 20) : Math.min(0, lowest);
  const height = SIZE.height - EDGE.top - EDGE.bottom;
  return { least, up: (value) => EDGE.top + (height * (1 - value)) / (1 - least) };
}

function gridLines({ least, up }) {
  const values = least < 0 ? [least, 0, 0.5, 1] : [least, (least + 1) / 2, 1];
  const digits = least > 0 ? 3 : 1;
  return values.flatMap((value) => [
    svg("line", { class: "grid", x1: EDGE.left, x2: SIZE.width - EDGE.right, y1: up(value), y2: up(value) }),
    svg("text", { class: "tick", x: EDGE.left - 8, y: up(value) + 4, "text-anchor": "end" }, value.toFixed(digits)),
  ]);
}

function line(lens, stream, up) {
  const layers = lens.cosine.length;
  const points = lens.cosine.map((values, layer) => `${across(layer, layers)},${up(values[stream])}`);
  return svg("polyline", { class: `line line-${stream % 8}`, points: points.join(" ") });
}

/** Names at the ends of the lines, moved apart where lines meet. */
function names(lens, up) {
  const ends = lens.cosine.at(-1).slice(0, -1);
  const order = ends.map((value, stream) => ({ stream, y: up(value) + 4 })).sort((a, b) => a.y - b.y);
  order.forEach((end, index) => {
    if (index) end.y = Math.max(end.y, order[index - 1].y + APART);
  });
  const x = SIZE.width - EDGE.right + 8;
  return order.map(({ stream, y }) => svg("text", { class: `name line-${stream % 8}`, x, y }, streamName(stream)));
}

function layerTicks(lens) {
  const last = lens.cosine.length - 1;
  const at = (layer, text, anchor) =>
    svg("text", { class: "tick", x: across(layer, last + 1), y: SIZE.height - 8, "text-anchor": anchor }, text);
  return [at(0, lens.layers[0], "start"), at(last, lens.layers[last], "end")];
}

export function depthChart(lens) {
  const measure = scale(lens);
  const streams = Array.from({ length: lens.streams - 1 }, (_, index) => index);
  return svg(
    "svg",
    { class: "depth", role: "img", "aria-label": t("cosineCaption"), viewBox: `0 0 ${SIZE.width} ${SIZE.height}` },
    ...gridLines(measure),
    ...layerTicks(lens),
    ...streams.map((stream) => line(lens, stream, measure.up)),
    ...names(lens, measure.up),
  );
}
