// What went wrong with an answer, in words, with what can be done about it.
import { el } from "../base/dom.js";
import { t } from "../i18n/index.js";

function words({ kind, detail }) {
  if (kind === "key") return t("failedKey");
  if (kind === "busy") return detail ? t("failedBusyFor", detail) : t("failedBusy");
  if (kind === "refused") return detail;
  if (kind === "broken") return detail ? t("failedWith", detail) : t("failedBroken");
  return t("failedLost");
}

export function failureBox(failure, onRetry) {
  const retry = el("button", { type: "button", onclick: onRetry }, t("retry"));
  return el("div", { class: "failure", role: "alert" }, el("p", {}, words(failure)), retry);
}
