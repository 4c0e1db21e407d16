// Texts of the page. t(name, ...values) fills {0}, {1}; apply() fills elements marked data-i18n*.
import en from "./en.js";
import zh from "./zh-CN.js";
const all = { en, "zh-CN": zh };
let texts = en;
export function choose(language) {
  const name = all[language] ? language : navigator.language.startsWith("zh") ? "zh-CN" : "en";
  texts = all[name];
  document.documentElement.lang = name;
  for (const node of document.querySelectorAll("[data-i18n]")) node.textContent = t(node.dataset.i18n);
  for (const node of document.querySelectorAll("[data-i18n-label]")) node.setAttribute("aria-label", t(node.dataset.i18nLabel));
  for (const node of document.querySelectorAll("[data-i18n-placeholder]")) node.placeholder = t(node.dataset.i18nPlaceholder);
}
export const t = (name, ...values) => values.reduce((text, value, i) => text.replace(`{${i}}`, value), texts[name] ?? name);
