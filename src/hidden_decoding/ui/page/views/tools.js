// The row of small buttons under a message.
import { el } from "../base/dom.js";
import { icon } from "../base/icons.js";
import { copyText } from "../base/platform.js";
import { t } from "../i18n/index.js";

export const tool = (name, symbol, onclick) =>
  el("button", { type: "button", class: "quiet tool", "aria-label": t(name), title: t(name), onclick }, icon(symbol));

export function copyTool(textOf) {
  const button = tool("copy", "copy", async () => {
    await copyText(textOf());
    button.replaceChildren(icon("check"));
    button.setAttribute("aria-label", t("copied"));
    setTimeout(() => {
      button.replaceChildren(icon("copy"));
      button.setAttribute("aria-label", t("copy"));
    }, 1500);
  });
  return button;
}

/** Steps through the versions of a message; nothing when there is only one. */
export function versionSwitch(versions, message, turn) {
  if (versions.length < 2) return null;
  const index = versions.indexOf(message);
  const back = tool("earlierVersion", "left", () => turn(message, -1));
  const on = tool("laterVersion", "right", () => turn(message, 1));
  back.disabled = index === 0;
  on.disabled = index === versions.length - 1;
  return el("span", { class: "versions" }, back, el("span", {}, `${index + 1}/${versions.length}`), on);
}

/** "45 in · 128 tokens · 31.2 tokens/s · first token 0.21 s": what is known of it. */
export function statsText({ prompt, tokens, rate, first } = {}) {
  const parts = [
    tokens !== undefined && t("tokens", tokens.toLocaleString()),
    rate !== undefined && t("tokensPerSecond", rate.toFixed(1)),
    first !== undefined && t("firstToken", first.toFixed(2)),
    prompt !== undefined && t("promptTokens", prompt.toLocaleString()),
  ];
  return parts.filter(Boolean).join(" · ");
}
