// Texts of the page. `t(name, ...values)` fills {0}, {1}; elements marked data-i18n, -label or -placeholder are filled
// when the language is chosen. A test holds that the dictionaries have the same keys and that every key is used.
import en from "./en.js";
import zh from "./zh-CN.js";

const dictionaries = { en, "zh-CN": zh };

export const languages = [
  ["en", "English"],
  ["zh-CN", "简体中文"],
];

let texts = en;

export function t(name, ...values) {
  return values.reduce((text, value, index) => text.replaceAll(`{${index}}`, () => value), texts[name] ?? name);
}

/** "auto" takes the browser's. */
export function chooseLanguage(wanted) {
  const browsers = navigator.language.toLowerCase().startsWith("zh") ? "zh-CN" : "en";
  const name = dictionaries[wanted] ? wanted : browsers;
  texts = dictionaries[name];
  document.documentElement.lang = name;
  for (const node of document.querySelectorAll("[data-i18n]")) node.textContent = t(node.dataset.i18n);
  for (const node of document.querySelectorAll("[data-i18n-label]")) {
    node.setAttribute("aria-label", t(node.dataset.i18nLabel));
    if (node.tagName === "BUTTON") node.title = t(node.dataset.i18nLabel);
  }
  for (const node of document.querySelectorAll("[data-i18n-placeholder]")) {
    node.placeholder = t(node.dataset.i18nPlaceholder);
  }
}
