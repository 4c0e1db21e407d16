// The servers that may be asked, their models and whether they answer. Event: "change".
import { Emitter } from "../base/emitter.js";
import { models } from "./api.js";
import { keyOf } from "./keys.js";

const PATIENCE = [2000, 4000, 8000, 15000]; // milliseconds between looks at a server that is down

/** What the server of this page says about itself; a page without it has the API beside it. */
export async function pageConfig() {
  const fallback = { apis: [{ name: "server", path: "v1" }], any_base_url: false };
  try {
    const answer = await fetch("config.json");
    return answer.ok ? { ...fallback, ...(await answer.json()) } : fallback;
  } catch {
    return fallback;
  }
}

class Server {
  state = "unknown"; // ready, locked (it wants a key), down
  models = [];
  problem = "";

  constructor(name, base) {
    this.name = name;
    this.base = base;
  }

  get key() {
    return keyOf(this.base);
  }
}

export class Servers extends Emitter {
  #settings;
  #config;
  #looks = 0;
  #timer;

  constructor(config, settings) {
    super();
    this.#settings = settings;
    this.#config = config;
    this.#list();
  }

  get takesUrls() {
    return this.#config.any_base_url;
  }

  #list() {
    this.all = this.#config.apis.map(({ name, path }) => new Server(name, path));
    const url = this.#settings.get("base_url");
    if (this.takesUrls && url) this.all.unshift(new Server(url.replace(/^https?:\/\//, ""), url));
  }

  /** The server and model that the next answer is asked of; no model means the server's own. */
  get server() {
    return this.all.find((server) => server.base === this.#settings.get("server")) ?? this.all[0];
  }

  get model() {
    const known = this.server.models;
    return known.find((model) => model.id === this.#settings.get("model")) ?? known[0] ?? null;
  }

  get hasLens() {
    return this.model?.stream_lens === true;
  }

  choose(server, model) {
    this.#settings.set("server", server.base);
    this.#settings.set("model", model?.id ?? "");
    this.emit("change");
  }

  /** Another URL was typed in: it comes first and is asked next. */
  async useUrl(url) {
    this.#settings.set("base_url", url);
    this.#settings.set("server", url);
    this.#list();
    await this.refresh();
  }

  /** Asks every server for its models, and keeps asking those that do not answer. */
  async refresh() {
    clearTimeout(this.#timer);
    await Promise.all(this.all.map((server) => look(server)));
    this.emit("change");
    if (this.all.some((server) => server.state === "down")) this.#wait();
    else this.#looks = 0;
  }

  #wait() {
    const patience = PATIENCE[Math.min(this.#looks, PATIENCE.length - 1)];
    this.#looks += 1;
    this.#timer = setTimeout(() => this.#lookAgain(), patience);
  }

  #lookAgain() {
    if (!document.hidden) this.refresh();
    else this.#timer = setTimeout(() => this.#lookAgain(), PATIENCE[0]);
  }
}

async function look(server) {
  try {
    server.models = await models(server);
    server.state = "ready";
    server.problem = "";
  } catch (error) {
    server.state = error.status === 401 || error.status === 403 ? "locked" : "down";
    server.problem = error.status ? error.message : "";
  }
}
