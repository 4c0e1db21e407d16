// The answer as running text, each token below its streams: one cell per stream, the first on top. The colour is the
// entropy, stripes say that the stream would have said another token than the last one, which is the model.
import { el } from "../base/dom.js";
import { t } from "../i18n/index.js";
import { mostBits, shown } from "./data.js";

export const STEPS = 9; // colours of the scale, styles/lens.css

const step = (bits, most) => Math.min(STEPS - 1, Math.floor((STEPS * bits) / most));

function cells(token, most) {
  return token.streams.map((stream) => {
    const differs = stream.agrees ? "" : " differs";
    return el("i", { class: `cell heat-${step(stream.entropy_bits, most)}${differs}` });
  });
}

function label(token) {
  const agreeing = token.streams.filter((stream) => stream.agrees).length;
  const bits = token.streams.at(-1).entropy_bits.toFixed(2);
  return t("lensToken", shown(token.token), agreeing, token.streams.length, bits);
}

/** `choose(index)` is called for the token that is clicked or moved to. Arrow keys move, Tab leaves. */
export class HeatMap {
  constructor(lens, choose) {
    const most = mostBits(lens);
    this.choose = choose;
    this.buttons = lens.tokens.map((token, index) => this.#button(token, index, most));
    const label = t("lensMap", lens.streams, lens.tokens.length);
    const parts = this.buttons.flatMap((button, index) => [button, ...breakAfter(lens.tokens, index)]);
    this.node = el("div", { class: "heat-map", role: "group", "aria-label": label }, ...parts);
    this.node.addEventListener("keydown", (event) => this.#onKey(event));
    this.select(0);
  }

  #button(token, index, most) {
    const text = el("span", { class: "text" }, shown(token.token).replace(/ +/g, " "));
    const onclick = () => this.select(index);
    return el("button", { type: "button", "aria-label": label(token), onclick }, ...cells(token, most), text);
  }

  select(index) {
    const before = this.buttons[this.selected ?? 0];
    before.setAttribute("aria-pressed", "false");
    before.tabIndex = -1;
    this.selected = index;
    const button = this.buttons[index];
    button.setAttribute("aria-pressed", "true");
    button.tabIndex = 0;
    this.choose(index);
  }

  #onKey(event) {
    const last = this.buttons.length - 1;
    const { selected } = this;
    const moves = { ArrowLeft: selected - 1, ArrowRight: selected + 1, Home: 0, End: last };
    if (!(event.key in moves)) return;
    event.preventDefault();
    this.select(Math.max(0, Math.min(last, moves[event.key])));
    this.buttons[this.selected].focus();
  }
}

/** Lines are those of the text; empty ones would only make the map longer. */
function breakAfter(tokens, index) {
  const next = tokens[index + 1]?.token ?? "";
  return tokens[index].token.includes("\n") && next.trim() ? [el("i", { class: "break" })] : [];
}
