// What a user can do in a conversation: ask, edit, ask again, go on, look at another version, stop. Several
// conversations may be answering at once; each has at most one answer on its way. Events: "begun" and "ended", with the
// conversation and its answer.
import { Emitter } from "../base/emitter.js";
import { append, drop, path, select, siblings } from "../data/tree.js";
import { Answer } from "./answer.js";
import { requestBody } from "./request.js";

export class Actions extends Emitter {
  #chats;
  #servers;
  #settings;
  #running = new Map(); // conversation -> Answer

  constructor({ chats, servers, settings }) {
    super();
    this.#chats = chats;
    this.#servers = servers;
    this.#settings = settings;
  }

  runningIn(conversation) {
    return this.#running.get(conversation);
  }

  ask(text) {
    const conversation = this.#chats.current;
    if (this.runningIn(conversation)) return;
    append(conversation, conversation.leaf, { role: "user", content: text });
    this.#answer(conversation);
  }

  /** The changed question becomes a version of its own; the old one keeps what followed it. */
  edit(message, text) {
    const conversation = this.#chats.current;
    if (this.runningIn(conversation)) return;
    append(conversation, message.parent, { role: "user", content: text });
    this.#answer(conversation);
  }

  /** Another answer to the same question; one that never began is replaced. */
  regenerate(message) {
    const conversation = this.#chats.current;
    if (this.runningIn(conversation)) return;
    if (!message.content && !message.thinking) drop(conversation, message);
    conversation.leaf = message.parent;
    this.#answer(conversation);
  }

  /** Goes on where the answer ended. */
  proceed(message) {
    const conversation = this.#chats.current;
    if (!this.runningIn(conversation)) this.#answer(conversation, message);
  }

  /** Shows the version before (-1) or after (1) this one. */
  turn(message, step) {
    const conversation = this.#chats.current;
    const versions = siblings(conversation, message);
    const wanted = versions[versions.indexOf(message) + step];
    if (!wanted || this.runningIn(conversation)) return;
    select(conversation, wanted);
    this.#chats.keep(conversation, { changed: false });
    this.#chats.emit("current");
  }

  stop(conversation = this.#chats.current) {
    this.runningIn(conversation)?.stop();
  }

  async #answer(conversation, goesOn = null) {
    const { server, model } = this.#servers;
    const lens = this.#settings.get("lens") && this.#servers.hasLens;
    const body = requestBody({
      messages: path(conversation),
      settings: this.#settings,
      model,
      lens,
      proceed: goesOn !== null,
    });
    const message = goesOn ?? append(conversation, conversation.leaf, { role: "assistant", content: "" });
    if (model) message.model = model.id;
    const keep = () => this.#chats.keep(conversation, { changed: false });
    const answer = new Answer({ message, server, body, keep });
    this.#running.set(conversation, answer);
    this.#chats.keep(conversation);
    this.emit("begun", conversation, answer);
    await answer.run();
    this.#running.delete(conversation);
    if (message.finish === "stopped" && !message.content && !message.thinking) drop(conversation, message);
    if (message.failure) this.#servers.refresh();
    this.emit("ended", conversation, answer);
    await this.#chats.keep(conversation);
  }
}
