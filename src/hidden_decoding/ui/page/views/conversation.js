// The conversation that is shown: its last messages, earlier ones on request, and the answer on its way.
import { byId, el } from "../base/dom.js";
import { Pinned } from "../base/pinned.js";
import { path, siblings } from "../data/tree.js";
import { t } from "../i18n/index.js";
import { Question, Reply } from "./message.js";
import { announce } from "./notices.js";
import { statsText } from "./tools.js";
import { welcome } from "./welcome.js";

const SHOWN = 60; // messages drawn at first
const MORE = 200; // and with each press of the button

export class ConversationView {
  #box = byId("messages");
  #pinned = new Pinned(this.#box, byId("to-end"));
  #unfollow = () => {};
  #last = null;
  #views = new Map(); // message -> its view, for as long as nothing about it changes

  constructor({ chats, actions }) {
    this.chats = chats;
    this.actions = actions;
    chats.on("current", () => this.redraw());
    actions.on("begun", (conversation) => this.#ifShown(conversation, () => this.#begun()));
    actions.on("ended", (conversation, answer) => this.#ifShown(conversation, () => this.#ended(answer)));
  }

  #ifShown(conversation, run) {
    if (conversation === this.chats.current) run();
  }

  /** Another conversation, version or language: nothing of what is shown holds. */
  redraw() {
    this.#views.clear();
    this.draw();
  }

  draw(from = null) {
    const conversation = this.chats.current;
    const messages = path(conversation);
    const first = from ?? Math.max(0, messages.length - SHOWN);
    this.#unfollow();
    const views = messages.slice(first).map((message) => this.#view(message, messages));
    this.#last = views.at(-1) ?? null;
    this.#box.replaceChildren(...this.#above(first), ...views.map((view) => view.node));
    if (!messages.length) this.#box.append(welcome((text) => this.actions.ask(text)));
    document.body.classList.toggle("empty", !messages.length);
    const running = this.actions.runningIn(conversation);
    if (running && this.#last) this.#unfollow = this.#last.follow(running);
    if (!messages.length) this.#pinned.toBeginning();
    else if (from === null) this.#pinned.jump();
    return Promise.all(views.filter((view) => !view.answer).map((view) => view.complete()));
  }

  /** The view there is, or a new one when its versions, its place at the end or its answer have changed. */
  #view(message, messages) {
    const { chats, actions } = this;
    const isLast = message === messages.at(-1);
    const state = `${siblings(chats.current, message).length} ${isLast} ${message.finish}`;
    const known = this.#views.get(message);
    if (known?.state === state) return known;
    const around = { conversation: chats.current, actions, isLast, onDrawn: () => this.#pinned.follow() };
    const view = message.role === "user" ? new Question(message, around) : new Reply(message, around);
    view.state = state;
    this.#views.set(message, view);
    return view;
  }

  #above(first) {
    if (!first) return [];
    const more = el("button", { type: "button", class: "earlier", onclick: () => this.#showEarlier(first) });
    more.textContent = t("earlier", first);
    return [more];
  }

  /** The message that was on top stays where it is. */
  async #showEarlier(first) {
    const top = this.#box.querySelector(".message");
    const before = top.getBoundingClientRect().top;
    await this.draw(Math.max(0, first - MORE));
    this.#box.scrollTop += top.getBoundingClientRect().top - before;
    top.querySelector("button").focus({ preventScroll: true }); // the button that was pressed is gone
  }

  #begun() {
    this.draw();
    announce(t("answering"));
  }

  async #ended(answer) {
    this.#unfollow();
    const view = this.#views.get(answer.message);
    if (view && path(this.chats.current).includes(answer.message)) {
      view.state = view.state.replace("running", answer.message.finish);
      await view.complete();
    } else {
      this.draw();
    }
    announce(`${t("answerEnded")} ${statsText(answer.message.stats)}`);
  }
}
