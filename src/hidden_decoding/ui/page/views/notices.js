// Short messages above the composer, one at a time, and what only screen readers are told.
import { byId, el } from "../base/dom.js";
import { icon } from "../base/icons.js";
import { t } from "../i18n/index.js";

const UNDO_TIME = 8000; // milliseconds

let timer;

/** Shows a message until it is closed, or for a while when there is something to do about it: {text, run}. */
export function notice(text, action = null) {
  clearTimeout(timer);
  byId("notice").replaceChildren(el("span", {}, text), ...(action ? [actionButton(action)] : []), closeButton());
  byId("notice").hidden = false;
  if (action) timer = setTimeout(hide, UNDO_TIME);
}

function actionButton({ text, run }) {
  const onclick = () => {
    hide();
    run();
  };
  return el("button", { type: "button", onclick }, text);
}

function closeButton() {
  const attributes = { type: "button", class: "quiet", "aria-label": t("close"), onclick: hide };
  return el("button", attributes, icon("close"));
}

export function hide() {
  byId("notice").hidden = true;
}

export function announce(text) {
  byId("announcer").textContent = text;
}
