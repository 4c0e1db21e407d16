// One message as DOM. A question can be edited in place; an answer is drawn while it arrives.
import { el } from "../base/dom.js";
import { Painter } from "../base/painter.js";
import { siblings } from "../data/tree.js";
import { t } from "../i18n/index.js";
import { lensPanel } from "../lens/panel.js";
import { MarkdownView } from "../markdown/view.js";
import { editor } from "./editor.js";
import { failureBox } from "./failure.js";
import { Thinking } from "./thinking.js";
import { copyTool, statsText, tool, versionSwitch } from "./tools.js";

export class Question {
  constructor(message, { conversation, actions }) {
    this.message = message;
    this.actions = actions;
    this.body = el("div", { class: "body" }, message.content);
    this.tools = el(
      "footer",
      { class: "tools" },
      versionSwitch(siblings(conversation, message), message, (one, step) => actions.turn(one, step)),
      copyTool(() => message.content),
      tool("edit", "edit", () => this.#edit()),
    );
    this.node = el("article", { class: "message user", "aria-label": t("you") }, this.body, this.tools);
  }

  complete() {}

  #edit() {
    const close = () => {
      form.replaceWith(this.body);
      this.tools.hidden = false;
      this.tools.querySelector(".icon-edit").closest("button").focus();
    };
    const send = (text) => this.actions.edit(this.message, text);
    const form = editor(this.message.content, { send, close });
    this.body.replaceWith(form);
    this.tools.hidden = true;
    form.querySelector("textarea").focus();
  }
}

export class Reply {
  #body = el("div", { class: "body prose" });
  #markdown = new MarkdownView(this.#body);
  #waiting = el("div", { class: "waiting", "aria-hidden": "true" }, el("i"), el("i"), el("i"), el("i"));
  #tools = el("footer", { class: "tools" });
  #work = Promise.resolve();
  #thinking = null;
  #isComplete = false;
  #painter;

  /** `onDrawn()` is called after each drawing: the message may have grown. */
  constructor(message, { conversation, actions, isLast, onDrawn }) {
    Object.assign(this, { message, conversation, actions, isLast, onDrawn });
    this.node = el("article", { class: "message assistant", "aria-label": t("answer") }, this.#body, this.#tools);
    this.#painter = new Painter(() => this.#draw());
  }

  /** Follows an answer on its way; returns what ends that. */
  follow(answer) {
    this.#tools.hidden = true;
    this.node.setAttribute("aria-busy", "true");
    this.node.classList.add("streamed");
    if (!this.message.content) this.#body.before(this.#waiting);
    this.answer = answer;
    this.#painter.request();
    return answer.on("text", () => this.#painter.request());
  }

  async #draw(complete = false) {
    if (!this.answer && !complete) return;
    this.#work = this.#work.then(() => this.#drawText(complete));
    await this.#work;
    this.onDrawn();
  }

  async #drawText(complete) {
    const { content, thinking } = this.message;
    if (content || thinking || complete) this.#waiting.remove();
    if (thinking) await this.#drawThinking(complete);
    const isAll = await this.#markdown.update(content, complete);
    if (!isAll) this.#painter.request();
  }

  async #drawThinking(complete) {
    if (!this.#thinking) {
      this.#thinking = new Thinking(this.message);
      this.#body.before(this.#thinking.node);
    }
    // A drawing that was asked for before the end may run after it.
    const seconds = complete || !this.answer ? null : this.answer.speed.running;
    await this.#thinking.update(seconds);
  }

  /** No more text comes: draws the whole of it with its tools, once. */
  async complete() {
    if (this.#isComplete) return;
    this.#isComplete = true;
    const wasFollowing = Boolean(this.answer);
    this.answer = null;
    await this.#draw(true);
    this.node.removeAttribute("aria-busy");
    const { message, actions } = this;
    if (message.lens) this.#tools.before(lensPanel(message.lens, { open: wasFollowing }));
    if (message.failure) this.#tools.before(failureBox(message.failure, () => actions.regenerate(message)));
    this.#fillTools();
    // A lens is long: whoever reads the end of the answer is not to be carried away from it.
    if (!message.lens) this.onDrawn();
  }

  #fillTools() {
    const { message, actions } = this;
    const canGoOn = this.isLast && message.content;
    const turn = (one, step) => actions.turn(one, step);
    const parts = [
      versionSwitch(siblings(this.conversation, message), message, turn),
      copyTool(() => message.content),
      tool("regenerate", "refresh", () => actions.regenerate(message)),
      canGoOn && this.#goOn(),
      el("span", { class: "stats", title: message.model ?? "" }, statsText(message.stats)),
    ];
    this.#tools.replaceChildren(...parts.filter(Boolean));
    this.#tools.hidden = false;
  }

  /** In words where the answer ended early, a small button elsewhere. */
  #goOn() {
    const button = tool("continue", "forward", () => this.actions.proceed(this.message));
    if (!["length", "stopped", "failed", "running"].includes(this.message.finish)) return button;
    button.classList.add("worded");
    button.append(t("continue"));
    return button;
  }
}
