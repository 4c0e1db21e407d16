// A conversation is a tree of messages: editing a question or asking again adds a sibling, and nothing is ever lost.
// What is shown is the path from the first message to `leaf`.
//
//   conversation  {id, title, changed, leaf, messages: [message, ...]}   parents stand before their children
//   message       {id, parent, role: "user" | "assistant", content, ...what the answer adds}
import { newId } from "../base/platform.js";

export function newConversation(title = "") {
  return { id: newId(), title, changed: Date.now(), leaf: null, messages: [] };
}

/** The messages shown, first to last. */
export function path(conversation) {
  const byId = new Map(conversation.messages.map((message) => [message.id, message]));
  const shown = [];
  for (let message = byId.get(conversation.leaf); message; message = byId.get(message.parent)) shown.push(message);
  return shown.reverse();
}

/** Adds a message below `parent` (an id, or null at the beginning) and shows it. */
export function append(conversation, parent, fields) {
  const message = { id: newId(), parent, ...fields };
  conversation.messages.push(message);
  conversation.leaf = message.id;
  return message;
}

/** All versions of a message, oldest first, itself included. */
export function siblings(conversation, message) {
  return conversation.messages.filter((other) => other.parent === message.parent && other.role === message.role);
}

/** Shows the path through a message, down to the newest of its descendants. */
export function select(conversation, message) {
  let leaf = message;
  for (;;) {
    const child = conversation.messages.findLast((other) => other.parent === leaf.id);
    if (!child) break;
    leaf = child;
  }
  conversation.leaf = leaf.id;
}

/** Takes away a message without children, such as an answer that never began. */
export function drop(conversation, message) {
  conversation.messages = conversation.messages.filter((other) => other !== message);
  const versions = siblings(conversation, message);
  if (versions.length) select(conversation, versions.at(-1));
  else conversation.leaf = message.parent;
}
