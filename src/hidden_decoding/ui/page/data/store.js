// Conversations in IndexedDB, one record each, so that one damaged record or a full disk loses no other.
import { conversation } from "./records.js";

const DATABASE = "hidden-decoding";
const TABLE = "conversations";

const result = (request) =>
  new Promise((done, fail) => {
    request.onsuccess = () => done(request.result);
    request.onerror = () => fail(request.error);
  });

let opened;

async function open() {
  const request = indexedDB.open(DATABASE, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
  const database = await result(request);
  // Another tab with a newer page may change the format; it must not wait for this one.
  database.onversionchange = () => database.close();
  return database;
}

async function table(mode) {
  opened ??= open();
  try {
    return (await opened).transaction(TABLE, mode).objectStore(TABLE);
  } catch (error) {
    opened = undefined;
    throw error;
  }
}

async function allAtOnce() {
  return await result((await table("readonly")).getAll());
}

/** Every record by itself, where reading all of them at once fails. */
async function oneByOne() {
  const found = [];
  for (const key of await result((await table("readonly")).getAllKeys())) {
    found.push(await result((await table("readonly")).get(key)).catch(() => null));
  }
  return found;
}

/** All conversations, the newest first, and how many records are damaged. Those stay where they are. */
export async function loadAll() {
  const records = await allAtOnce().catch(oneByOne);
  const conversations = [];
  for (const record of records) {
    try {
      conversations.push(conversation(record));
    } catch {
      // Counted below; the others are not to suffer.
    }
  }
  conversations.sort((a, b) => b.changed - a.changed);
  return { conversations, damaged: records.length - conversations.length };
}

/** Makes one change and commits it at once: a page that is closed right after does not lose it. */
async function write(change) {
  const store = await table("readwrite");
  const { transaction } = store;
  // A full disk may show only when the transaction ends, after the request itself has succeeded.
  const ended = new Promise((done, fail) => {
    transaction.oncomplete = done;
    transaction.onabort = () => fail(transaction.error);
  });
  change(store);
  transaction.commit();
  await ended;
}

export async function save(record) {
  await write((store) => store.put(record));
}

export async function remove(id) {
  await write((store) => store.delete(id));
}
