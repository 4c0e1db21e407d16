// What the user has set, kept in localStorage. API keys are not among it (server/keys.js).
import { Emitter } from "../base/emitter.js";

const PLACE = "hidden-decoding-settings"; // theme.js reads it too, before the first paint

const DEFAULTS = {
  language: "auto",
  theme: "auto",
  system: "",
  temperature: "",
  top_p: "",
  top_k: "",
  min_p: "",
  presence_penalty: "",
  repetition_penalty: "",
  max_tokens: "",
  seed: "",
  think: true,
  lens: false,
  server: "",
  model: "",
  base_url: "",
  side: true,
};

/** Sampling fields, empty when the server's default holds: name -> attributes of the number field. */
export const SAMPLING = {
  temperature: { min: 0, max: 5, step: 0.1 },
  max_tokens: { min: 1, step: 1 },
  top_p: { min: 0, max: 1, step: 0.05 },
  top_k: { min: -1, step: 1 },
  min_p: { min: 0, max: 1, step: 0.01 },
  presence_penalty: { min: -2, max: 2, step: 0.1 },
  repetition_penalty: { min: 0.1, max: 5, step: 0.05 },
  seed: { min: 0, step: 1 },
};

function kept() {
  try {
    const found = JSON.parse(localStorage.getItem(PLACE)) ?? {};
    const sound = Object.entries(found).filter(([name, value]) => typeof value === typeof DEFAULTS[name]);
    return Object.fromEntries(sound);
  } catch {
    return {}; // damaged: begin again
  }
}

export class Settings extends Emitter {
  #values = { ...DEFAULTS, ...kept() };

  get(name) {
    return this.#values[name];
  }

  set(name, value) {
    this.#values[name] = value;
    try {
      localStorage.setItem(PLACE, JSON.stringify(this.#values));
    } catch {
      // A full or forbidden storage: the setting holds until the page is left.
    }
    this.emit("change", name);
  }

  /** The sampling fields that the user has set, as numbers. */
  sampling() {
    const given = Object.keys(SAMPLING).filter((name) => this.#values[name] !== "");
    return Object.fromEntries(given.map((name) => [name, Number(this.#values[name])]));
  }
}
