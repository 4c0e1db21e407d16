// Labelled fields of the settings panel, each bound to one setting.
import { el } from "../base/dom.js";
import { t } from "../i18n/index.js";

export const labelled = (name, input, hint) =>
  el("label", { class: "field" }, el("span", {}, t(name)), input, hint && el("small", {}, hint));

/** Empty means: whatever the server's default is. */
export function numberField(settings, name, attributes) {
  const input = el("input", {
    type: "number",
    inputmode: "decimal",
    placeholder: t("serverDefault"),
    value: settings.get(name),
    onchange: () => settings.set(name, input.validity.valid ? input.value : ""),
    ...attributes,
  });
  return labelled(name, input);
}

export function textField(settings, name, rows, hint) {
  const onchange = () => settings.set(name, input.value);
  const input = el("textarea", { rows, placeholder: t(`${name}Hint`), onchange });
  input.value = settings.get(name);
  return labelled(name, input, hint);
}

/** A row of radio buttons that looks like one control. */
export function segmented(settings, name, options) {
  const radios = options.map(([value, text]) => {
    const checked = settings.get(name) === value;
    const radio = el("input", { type: "radio", name, value, checked, onchange: () => settings.set(name, value) });
    return el("label", {}, radio, el("span", {}, text));
  });
  return el("fieldset", { class: "segmented" }, el("legend", {}, t(name)), el("div", {}, ...radios));
}
