// The thinking of an answer, folded, with the time it took. Its text is drawn only while it is open.
import { el } from "../base/dom.js";
import { icon } from "../base/icons.js";
import { t } from "../i18n/index.js";
import { MarkdownView } from "../markdown/view.js";

export class Thinking {
  #text = el("div", { class: "prose" });
  #summary = el("summary");
  #markdown = new MarkdownView(this.#text);

  constructor(message) {
    this.message = message;
    this.node = el("details", { class: "thinking", ontoggle: () => this.#draw() }, this.#summary, this.#text);
  }

  /** `seconds`: how long it has been going on, while it does. */
  async update(seconds = null) {
    this.#title(seconds);
    await this.#draw(seconds === null);
  }

  #title(seconds) {
    const { thought } = this.message;
    const going = seconds !== null && thought === undefined;
    let title = t("thinkingTitle");
    if (going) title = t("thinkingFor", Math.floor(seconds));
    else if (thought !== undefined) title = t("thoughtFor", thought.toFixed(1));
    this.node.classList.toggle("going", going);
    this.#summary.replaceChildren(icon("think"), el("span", {}, title), icon("right"));
  }

  async #draw(complete = this.message.finish !== "running") {
    if (this.node.open) await this.#markdown.update(this.message.thinking, complete);
  }
}
