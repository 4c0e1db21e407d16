// Conversations in IndexedDB, one record each, so that one damaged record or a full disk loses no other.
const request = (wanted) => new Promise((done, fail) => { wanted.onsuccess = () => done(wanted.result); wanted.onerror = () => fail(wanted.error); });
let database;
async function records(mode) {
  if (!database) {
    const opening = indexedDB.open("hidden-decoding", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("conversations", { keyPath: "id" });
    database = await request(opening);
  }
  return database.transaction("conversations", mode).objectStore("conversations");
}
const roles = ["user", "assistant"];
export const isConversation = (c) => c && typeof c.id === "string" && typeof c.title === "string" && Array.isArray(c.messages) &&
  c.messages.every((m) => m && roles.includes(m.role) && typeof m.content === "string");
export async function loadAll() {
  const all = await request((await records("readonly")).getAll());
  const fine = all.filter(isConversation).sort((a, b) => b.changed - a.changed);
  return { conversations: fine, damaged: all.length - fine.length };
}
export async function save(conversation) { await request((await records("readwrite")).put(structuredClone(conversation))); }
export async function remove(id) { await request((await records("readwrite")).delete(id)); }
export function parseExport(text) {
  const given = JSON.parse(text);
  if (given?.format !== "hidden-decoding-chat" || !given.conversations?.every?.(isConversation)) throw new Error("not an export");
  // Only what this page knows is taken over: an imported file is not to be trusted.
  return given.conversations.map(({ title, messages, changed }) => ({ id: crypto.randomUUID(), title, changed: Number(changed) || 0,
    messages: messages.map(({ role, content, thinking }) => ({ role, content, ...(typeof thinking === "string" && { thinking }) })) }));
}
