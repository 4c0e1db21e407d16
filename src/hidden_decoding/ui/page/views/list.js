// The side list: conversations by date, searched, renamed where they stand, deleted with a way back.
import { byId, el } from "../base/dom.js";
import { t } from "../i18n/index.js";
import { isComposing } from "./keys.js";
import { notice } from "./notices.js";
import { tool } from "./tools.js";

const DAY = 24 * 60 * 60 * 1000;
const SEARCH_DELAY = 120; // milliseconds

/** Which heading a time belongs under. */
function period(time) {
  const today = new Date().setHours(0, 0, 0, 0);
  if (time >= today) return "today";
  if (time >= today - DAY) return "yesterday";
  return time >= today - 7 * DAY ? "lastWeek" : "earlierDates";
}

export class List {
  #renaming = null;
  #timer;

  constructor({ chats, actions, onChosen }) {
    Object.assign(this, { chats, actions, onChosen });
    byId("search").addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.draw(), SEARCH_DELAY);
    });
    chats.on("list", () => this.draw());
    for (const name of ["begun", "ended"]) actions.on(name, () => this.draw());
  }

  draw() {
    if (this.#renaming) return; // a name being typed is not to be lost to an answer that ends
    const found = this.chats.search(byId("search").value);
    const groups = Map.groupBy(found, (one) => period(one.changed));
    const parts = [...groups].flatMap(([name, all]) => [el("h2", {}, t(name)), this.#items(all)]);
    byId("list").replaceChildren(...(parts.length ? parts : [this.#nothing()]));
  }

  #nothing() {
    return el("p", { class: "nothing" }, t(byId("search").value ? "nothingFound" : "noConversations"));
  }

  #items(conversations) {
    return el("ul", {}, ...conversations.map((one) => this.#item(one)));
  }

  #item(conversation) {
    const isCurrent = conversation === this.chats.current;
    const isRunning = Boolean(this.actions.runningIn(conversation));
    const open = el(
      "button",
      { type: "button", class: "open", "aria-current": isCurrent && "true", onclick: () => this.#show(conversation) },
      el("span", {}, conversation.title),
      isRunning && el("i", { class: "running", role: "img", "aria-label": t("answering") }),
    );
    const rename = tool("rename", "edit", () => this.#rename(item, conversation));
    const remove = tool("remove", "trash", () => this.#remove(conversation));
    for (const button of [rename, remove]) {
      button.setAttribute("aria-label", `${button.title}: ${conversation.title}`);
    }
    const item = el("li", { class: isCurrent && "current" }, open, rename, remove);
    return item;
  }

  #show(conversation) {
    this.chats.show(conversation);
    this.onChosen();
  }

  #rename(item, conversation) {
    const input = el("input", { "aria-label": t("rename"), maxlength: 200 });
    input.value = conversation.title;
    const end = (title) => {
      if (this.#renaming !== input) return;
      this.#renaming = null;
      if (title) this.chats.rename(conversation, title);
      this.draw();
    };
    input.addEventListener("blur", () => end(input.value.trim()));
    input.addEventListener("keydown", (event) => {
      if (isComposing(event)) return;
      if (event.key === "Enter") end(input.value.trim());
      if (event.key === "Escape") {
        event.stopPropagation();
        end("");
      }
    });
    this.#renaming = input;
    item.replaceChildren(input);
    input.select();
  }

  async #remove(conversation) {
    this.actions.stop(conversation);
    await this.chats.remove(conversation);
    notice(t("removed", conversation.title), { text: t("undo"), run: () => this.chats.add([conversation]) });
  }
}
