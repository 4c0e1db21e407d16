// A question being changed where it stands. Nothing that follows it is touched before it is sent.
import { el } from "../base/dom.js";
import { t } from "../i18n/index.js";
import { fit } from "./fit.js";
import { isComposing, isSending } from "./keys.js";

export function editor(text, { send, close }) {
  const field = el("textarea", { "aria-label": t("editQuestion"), rows: 1, oninput: () => fit(field) });
  field.value = text;
  const form = el(
    "form",
    { class: "editor", onsubmit: (event) => (event.preventDefault(), submit()) },
    field,
    el("button", { type: "button", onclick: close }, t("cancel")),
    el("button", { type: "submit", class: "primary" }, t("send")),
  );
  const submit = () => {
    const changed = field.value.trim();
    if (changed) send(changed);
  };
  field.addEventListener("keydown", (event) => {
    if (isSending(event)) {
      event.preventDefault();
      submit();
    } else if (event.key === "Escape" && !isComposing(event)) {
      event.stopPropagation();
      close();
    }
  });
  requestAnimationFrame(() => fit(field));
  return form;
}
