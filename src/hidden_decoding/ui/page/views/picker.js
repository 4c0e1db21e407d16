// The model picker in the header, over all servers, with a dot that says whether they answer.
import { byId, el } from "../base/dom.js";
import { t } from "../i18n/index.js";

export class Picker {
  #select = byId("model");

  constructor({ servers }) {
    this.servers = servers;
    this.#select.addEventListener("change", () => this.#choose());
    servers.on("change", () => this.draw());
  }

  #choose() {
    const [server, model] = JSON.parse(this.#select.value);
    const chosen = this.servers.all[server];
    this.servers.choose(chosen, chosen.models[model]);
  }

  draw() {
    const { all, server, model } = this.servers;
    const groups = all.map((one, index) => this.#group(one, index));
    const isPlain = all.length === 1;
    const entries = isPlain ? groups[0].options : groups.map(({ label, options }) => group(label, options));
    this.#select.replaceChildren(...entries);
    this.#select.value = JSON.stringify([all.indexOf(server), Math.max(0, server.models.indexOf(model))]);
    byId("state").className = `state ${server.state}`;
    byId("state").setAttribute("aria-label", t(`state_${server.state}`));
    byId("state").title = t(`state_${server.state}`);
  }

  #group(server, index) {
    const empty = [{ id: t(`state_${server.state}`) }];
    const models = server.models.length ? server.models : empty;
    const options = models.map((model, place) => el("option", { value: JSON.stringify([index, place]) }, model.id));
    return { label: server.name, options };
  }
}

const group = (label, options) => el("optgroup", { label }, ...options);
