// What a record of the store or a file to import must look like. Neither is trusted: only known fields are taken over.
import { isLens } from "../lens/data.js";
import { newId } from "../base/platform.js";

const ROLES = ["user", "assistant"];
const isText = (value) => typeof value === "string";
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

const STATS = ["prompt", "cached", "tokens", "rate", "first"];

function stats(given) {
  const known = STATS.filter((name) => isNumber(given?.[name])).map((name) => [name, given[name]]);
  return known.length ? Object.fromEntries(known) : undefined;
}

function failure(given) {
  if (!given || !isText(given.kind)) return undefined;
  return { kind: given.kind, detail: isText(given.detail) ? given.detail : "" };
}

function message(given, id, parent) {
  if (!given || !ROLES.includes(given.role) || !isText(given.content)) throw new Error("no message");
  const optional = {
    thinking: isText(given.thinking) ? given.thinking : undefined,
    thought: isNumber(given.thought) ? given.thought : undefined,
    model: isText(given.model) ? given.model : undefined,
    finish: isText(given.finish) ? given.finish : undefined,
    stats: stats(given.stats),
    failure: failure(given.failure),
    lens: isLens(given.lens) ? given.lens : undefined,
  };
  const present = Object.entries(optional).filter(([, value]) => value !== undefined);
  return { id, parent, role: given.role, content: given.content, ...Object.fromEntries(present) };
}

/** The messages of a record: with ids and parents a tree, without them one after the other. */
function messages(given) {
  const isTree = given.some((one) => isText(one?.id));
  const seen = new Set([null]);
  let before = null;
  return given.map((one) => {
    const id = isTree ? one?.id : newId();
    const parent = isTree ? (one?.parent ?? null) : before;
    // A parent that comes later, or never, would make a loop or a lost branch.
    if (!isText(id) || seen.has(id) || !seen.has(parent)) throw new Error("no tree");
    seen.add(id);
    before = id;
    return message(one, id, parent);
  });
}

/** A conversation made of the known fields of `given`; throws when it is none. */
export function conversation(given, { fresh = false } = {}) {
  if (!given || !isText(given.id) || !isText(given.title) || !Array.isArray(given.messages)) {
    throw new Error("no conversation");
  }
  const all = messages(given.messages);
  const leaf = all.some((one) => one.id === given.leaf) ? given.leaf : (all.at(-1)?.id ?? null);
  const changed = isNumber(given.changed) ? given.changed : 0;
  return { id: fresh ? newId() : given.id, title: given.title, changed, leaf, messages: all };
}
