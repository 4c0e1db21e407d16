// Conversations as files: JSON that comes back as it was, Markdown for people. Neither holds a key or a setting.
import { conversation } from "./records.js";
import { path } from "./tree.js";

const FORMAT = "hidden-decoding-chat";

export const toJson = (conversations) => JSON.stringify({ format: FORMAT, version: 1, conversations });

/** Conversations of an export, under new ids; throws, having taken nothing, when any part of it is damaged. */
export function fromJson(text) {
  const given = JSON.parse(text);
  if (given?.format !== FORMAT || !Array.isArray(given.conversations)) throw new Error("not an export of this page");
  return given.conversations.map((one) => conversation(one, { fresh: true }));
}

export function toMarkdown(one, names) {
  const parts = path(one).map((message) => `## ${names[message.role]}\n\n${message.content}`);
  return `# ${one.title}\n\n${parts.join("\n\n")}\n`;
}

/** A title as a file name that every system takes. */
export function fileName(title) {
  const plain = title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "");
  return plain.slice(0, 60).toLowerCase() || "chat";
}
