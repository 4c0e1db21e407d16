// All conversations, and the one that is shown. Events: "list" (any title, order or number changed), "current",
// "unsaved" (the browser refused to keep one).
import { Emitter } from "../base/emitter.js";
import * as store from "./store.js";
import { newConversation } from "./tree.js";

const SHOWN = "hidden-decoding-shown"; // per tab: a reload comes back to the same conversation
const TITLE_LENGTH = 60;

export class Chats extends Emitter {
  conversations = [];
  current = newConversation();
  #removed = new WeakSet(); // an answer that ends late must not bring its conversation back

  /** Reads the store; returns how many records are damaged. */
  async load() {
    const { conversations, damaged } = await store.loadAll();
    this.conversations = conversations;
    this.current = conversations.find((one) => one.id === sessionStorage.getItem(SHOWN)) ?? this.current;
    return damaged;
  }

  show(conversation) {
    this.current = conversation;
    sessionStorage.setItem(SHOWN, conversation.id);
    this.emit("current");
    this.emit("list");
  }

  begin() {
    this.show(newConversation());
  }

  /** Keeps a conversation that has changed; a new one enters the list with its first message. */
  async keep(conversation, { changed = true } = {}) {
    if (this.#removed.has(conversation)) return;
    if (changed) {
      conversation.changed = Date.now();
      conversation.title ||= titleOf(conversation);
      this.conversations = [conversation, ...this.conversations.filter((other) => other !== conversation)];
      if (conversation === this.current) sessionStorage.setItem(SHOWN, conversation.id);
      this.emit("list");
    }
    await this.#save(conversation);
  }

  async rename(conversation, title) {
    conversation.title = title;
    this.emit("list");
    await this.#save(conversation);
  }

  async remove(conversation) {
    this.#removed.add(conversation);
    this.conversations = this.conversations.filter((other) => other !== conversation);
    if (conversation === this.current) this.begin();
    else this.emit("list");
    await store.remove(conversation.id).catch(() => this.emit("unsaved"));
  }

  async add(conversations) {
    const all = [...conversations, ...this.conversations];
    this.conversations = all.sort((a, b) => b.changed - a.changed);
    this.emit("list");
    for (const conversation of conversations) this.#removed.delete(conversation);
    for (const conversation of conversations) await this.#save(conversation);
  }

  /** Conversations whose title or text holds what is searched for. */
  search(wanted) {
    const text = wanted.trim().toLowerCase();
    if (!text) return this.conversations;
    const holds = (one) => one.toLowerCase().includes(text);
    return this.conversations.filter((one) => holds(one.title) || one.messages.some(({ content }) => holds(content)));
  }

  async #save(conversation) {
    await store.save(conversation).catch(() => this.emit("unsaved"));
  }
}

function titleOf(conversation) {
  const [line] = (conversation.messages[0]?.content ?? "").trim().split("\n");
  return line.length > TITLE_LENGTH ? `${line.slice(0, TITLE_LENGTH - 1)}…` : line;
}
