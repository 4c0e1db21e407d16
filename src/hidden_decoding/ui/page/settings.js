// The settings panel. All are kept in localStorage except the key: that lives in this tab's session only.
import { el } from "./dom.js";
import { t } from "./i18n/index.js";
const defaults = { language: "auto", theme: "auto", system: "", temperature: "", top_p: "", top_k: "", max_tokens: "", think: true, lens: false, base_url: "", api: 0 };
let kept = {};
try { kept = JSON.parse(localStorage.getItem("hidden-decoding-settings")) ?? {}; } catch { /* damaged: begin again */ }
export const settings = { ...defaults, ...kept };
export const key = { get: () => sessionStorage.getItem("hidden-decoding-key") ?? "", set: (value) => sessionStorage.setItem("hidden-decoding-key", value) };
export function draw(panel, config, lens, changed) {
  const set = (name, value) => { settings[name] = value; localStorage.setItem("hidden-decoding-settings", JSON.stringify(settings)); changed(name); };
  const field = (name, input) => el("label", {}, t(name), input);
  const number = (name, step, min) => { const input = el("input", { type: "number", step, min, value: settings[name], onchange: () => set(name, input.value) }); return field(name, input); };
  const choice = (name, pairs) => { const input = el("select", { onchange: () => set(name, input.value) }, ...pairs.map(([value, text]) => el("option", { value, selected: String(settings[name]) === String(value) }, text))); return field(name, input); };
  const check = (name) => { const input = el("input", { type: "checkbox", checked: settings[name], onchange: () => set(name, input.checked) }); return el("label", { class: "check" }, input, t(name)); };
  const system = el("textarea", { rows: 4, onchange: () => set("system", system.value) });
  system.value = settings.system;
  const secret = el("input", { id: "key", type: "password", autocomplete: "off", value: key.get(), onchange: () => { key.set(secret.value.trim()); changed("key"); } });
  const url = el("input", { type: "url", value: settings.base_url, onchange: () => set("base_url", url.value.replace(/\/+$/, "")) });
  panel.replaceChildren(field("key", secret), ...(config.apis.length > 1 ? [choice("api", config.apis.map((api, i) => [i, api.name]))] : []),
    ...(config.any_base_url ? [field("base_url", url)] : []), field("system", system), number("temperature", 0.1, 0), number("top_p", 0.05, 0), number("top_k", 1, -1), number("max_tokens", 1, 1), check("think"), ...(lens ? [check("lens")] : []),
    choice("theme", ["auto", "light", "dark"].map((name) => [name, t(name)])), choice("language", [["auto", t("auto")], ["en", "English"], ["zh-CN", "简体中文"]]));
}
