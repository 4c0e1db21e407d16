// Keys that work everywhere on the page, and the dialog that lists them.
import { byId, el } from "../base/dom.js";
import { t } from "../i18n/index.js";
import { isComposing } from "./keys.js";

const LISTED = [
  ["Enter", "keySend"],
  ["Shift Enter", "keyNewLine"],
  ["Esc", "keyStop"],
  ["Ctrl Shift O", "keyNew"],
  ["Ctrl K", "keySearch"],
  ["Ctrl B", "keySide"],
  ["Ctrl ,", "keySettings"],
  ["/", "keyInput"],
  ["Ctrl /", "keyHelp"],
];

const isTyping = () => /^(?:INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName ?? "");

function drawDialog() {
  const rows = LISTED.flatMap(([keys, name]) => [
    el("dt", {}, ...keys.split(" ").map((key) => el("kbd", {}, key))),
    el("dd", {}, t(name)),
  ]);
  byId("shortcut-list").replaceChildren(...rows);
}

export class Shortcuts {
  constructor({ chats, actions, drawers }) {
    Object.assign(this, { chats, actions, drawers });
    document.addEventListener("keydown", (event) => this.#onKey(event));
    byId("help").addEventListener("click", () => this.#help());
    byId("close-shortcuts").addEventListener("click", () => byId("shortcuts").close());
  }

  #help() {
    drawDialog();
    byId("shortcuts").showModal();
  }

  #onKey(event) {
    if (isComposing(event) || byId("shortcuts").open) return;
    const run = this.#command(event);
    if (!run) return;
    event.preventDefault();
    run();
  }

  #command(event) {
    const key = event.key.toLowerCase();
    if (event.ctrlKey || event.metaKey) return this.#withControl(event.shiftKey ? `shift ${key}` : key);
    if (key === "escape") return () => this.drawers.closeOver() || this.actions.stop();
    return key === "/" && !isTyping() ? () => byId("input").focus() : null;
  }

  #withControl(keys) {
    const { drawers } = this;
    const commands = {
      "shift o": () => this.begin(),
      k: () => this.#search(),
      b: () => drawers.toggle(drawers.side),
      ",": () => drawers.toggle(drawers.options),
      "/": () => this.#help(),
    };
    return commands[keys];
  }

  begin() {
    this.chats.begin();
    this.drawers.closeOver();
    byId("input").focus();
  }

  #search() {
    if (!this.drawers.side.isOpen) this.drawers.open(this.drawers.side);
    byId("search").focus();
  }
}
