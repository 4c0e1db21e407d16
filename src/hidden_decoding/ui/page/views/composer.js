// Where questions are typed: Enter sends, drafts stay with their conversation. Beside it are switches for thinking and
// lens, below it is the speed of the answer on its way.
import { byId } from "../base/dom.js";
import { t } from "../i18n/index.js";
import { fit } from "./fit.js";
import { hasScreenKeyboard, isSending } from "./keys.js";
import { statsText } from "./tools.js";

const TICK = 200; // milliseconds

export class Composer {
  #input = byId("input");
  #drafts = new Map(); // conversation -> text not sent yet
  #shown;
  #timer;

  constructor({ chats, actions, servers, settings }) {
    Object.assign(this, { chats, actions, servers, settings });
    this.#shown = chats.current;
    this.#listen();
    this.#switch("think");
    this.#switch("lens");
    settings.on("change", () => this.draw());
    chats.on("current", () => this.#changeDraft());
    for (const name of ["begun", "ended"]) actions.on(name, () => this.draw());
    servers.on("change", () => this.draw());
    this.draw();
  }

  #listen() {
    const input = this.#input;
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    input.addEventListener("input", () => fit(input));
    input.addEventListener("keydown", (event) => {
      if (!isSending(event)) return;
      event.preventDefault();
      this.#send();
    });
    byId("stop").addEventListener("click", () => this.actions.stop());
  }

  #switch(name) {
    const button = byId(name);
    button.addEventListener("click", () => this.settings.set(name, !this.settings.get(name)));
  }

  #send() {
    const text = this.#input.value.trim();
    if (!text || this.#running) return;
    this.#input.value = "";
    fit(this.#input);
    this.actions.ask(text);
  }

  get #running() {
    return this.actions.runningIn(this.chats.current);
  }

  #changeDraft() {
    this.#drafts.set(this.#shown, this.#input.value);
    this.#shown = this.chats.current;
    this.#input.value = this.#drafts.get(this.#shown) ?? "";
    fit(this.#input);
    this.draw();
  }

  draw() {
    const running = this.#running;
    byId("send").hidden = Boolean(running);
    byId("stop").hidden = !running;
    for (const name of ["think", "lens"]) byId(name).setAttribute("aria-pressed", String(this.settings.get(name)));
    byId("lens").hidden = !this.servers.hasLens;
    clearInterval(this.#timer);
    if (running) this.#timer = setInterval(() => this.#drawSpeed(), TICK);
    this.#drawSpeed();
  }

  #drawSpeed() {
    const speed = this.#running?.speed;
    let text = hasScreenKeyboard ? "" : t("composerHint");
    if (speed) text = speed.waiting === null ? statsText(speed.read()) : t("waitingFor", speed.waiting.toFixed(1));
    byId("speed").textContent = text;
    byId("speed").classList.toggle("live", Boolean(speed));
  }
}
