// The settings: connection, answers, appearance, data. Drawn anew when the language or the servers change.
import { byId, el } from "../base/dom.js";
import { icon } from "../base/icons.js";
import { download } from "../base/platform.js";
import { fileName, fromJson, toJson, toMarkdown } from "../data/exchange.js";
import { SAMPLING } from "../data/settings.js";
import { languages, t } from "../i18n/index.js";
import { keepKey } from "../server/keys.js";
import { labelled, numberField, segmented, textField } from "./fields.js";
import { notice } from "./notices.js";

export class SettingsPanel {
  #box = byId("settings-body");

  constructor({ chats, servers, settings }) {
    Object.assign(this, { chats, servers, settings });
    servers.on("change", () => this.#drawConnection());
    byId("file").addEventListener("change", () => this.#import());
    this.draw();
  }

  draw() {
    this.connection = el("section");
    this.#box.replaceChildren(this.connection, this.#answers(), this.#appearance(), this.#data());
    this.#drawConnection();
  }

  // A key being typed is not to be lost to a server that comes back.
  #drawConnection() {
    if (this.connection.contains(document.activeElement)) this.#drawStates();
    else this.connection.replaceChildren(...this.#connectionParts());
  }

  #connectionParts() {
    const { server } = this.servers;
    const key = el("input", { id: "key", type: "password", autocomplete: "off", spellcheck: "false" });
    key.value = server.key;
    key.addEventListener("change", () => {
      keepKey(server.base, key.value.trim());
      this.servers.refresh();
    });
    this.states = el("ul", { class: "states" });
    this.#drawStates();
    const url = this.servers.takesUrls ? [this.#urlField()] : [];
    return [el("h3", {}, t("connection")), this.states, ...url, labelled("key", key, t("keyHint"))];
  }

  #drawStates() {
    const rows = this.servers.all.map((server) => {
      const text = server.problem || t(`state_${server.state}`);
      return el("li", {}, el("i", { class: `state ${server.state}` }), el("b", {}, server.name), el("span", {}, text));
    });
    this.states.replaceChildren(...rows);
  }

  #urlField() {
    const value = this.settings.get("base_url");
    const input = el("input", { type: "url", placeholder: "http://localhost:8080/v1", value });
    input.addEventListener("change", () => {
      const url = input.value.trim().replace(/\/+$/, "");
      const isWeb = !url || /^https?:\/\//.test(url);
      input.setCustomValidity(isWeb && input.validity.typeMismatch === false ? "" : t("badUrl"));
      if (input.reportValidity()) this.servers.useUrl(url);
    });
    return labelled("base_url", input);
  }

  #answers() {
    const fields = Object.entries(SAMPLING).map(([name, limits]) => numberField(this.settings, name, limits));
    const reset = () => {
      for (const name of Object.keys(SAMPLING)) this.settings.set(name, "");
      this.draw();
    };
    return el(
      "section",
      {},
      el("h3", {}, t("answers")),
      textField(this.settings, "system", 4),
      el("div", { class: "grid" }, ...fields),
      el("button", { type: "button", class: "quiet", onclick: reset }, icon("refresh"), t("resetSampling")),
    );
  }

  #appearance() {
    const themes = ["auto", "light", "dark"].map((name) => [name, t(name)]);
    return el(
      "section",
      {},
      el("h3", {}, t("appearance")),
      segmented(this.settings, "theme", themes),
      segmented(this.settings, "language", [["auto", t("auto")], ...languages]),
    );
  }

  #data() {
    const button = (name, symbol, onclick) => el("button", { type: "button", onclick }, icon(symbol), t(name));
    return el(
      "section",
      {},
      el("h3", {}, t("data")),
      el("p", {}, t("dataHint")),
      el(
        "div",
        { class: "buttons" },
        button("exportJson", "download", () => this.#exportJson()),
        button("exportMarkdown", "download", () => this.#exportMarkdown()),
        button("import", "upload", () => byId("file").click()),
      ),
    );
  }

  #exportJson() {
    download("hidden-decoding-chats.json", "application/json", toJson(this.chats.conversations));
  }

  #exportMarkdown() {
    const { current } = this.chats;
    const names = { user: t("you"), assistant: t("answer") };
    download(`${fileName(current.title)}.md`, "text/markdown", toMarkdown(current, names));
  }

  async #import() {
    const [file] = byId("file").files;
    try {
      const added = fromJson(await file.text());
      await this.chats.add(added);
      notice(t("imported", added.length));
    } catch {
      notice(t("badFile"));
    }
    byId("file").value = "";
  }
}
