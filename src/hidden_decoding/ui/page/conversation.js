// The view of one conversation: messages as DOM, drawn at most once per frame while an answer arrives.
import { el } from "./dom.js";
import { t } from "./i18n/index.js";
import { lensPanel } from "./lens.js";
import { MarkdownView } from "./markdown.js";
const SHOWN = 60;
export function messageView(message, index, actions) {
  const body = el("div", { class: "body" }), tools = el("div", { class: "tools" });
  const node = el("article", { class: message.role, "aria-label": message.role }, body, tools);
  const button = (name, run) => tools.append(el("button", { type: "button", onclick: run }, t(name)));
  button("copy", () => navigator.clipboard.writeText(message.content));
  if (message.role === "user") { body.textContent = message.content; button("edit", () => actions.edit(index)); return { node, update() {}, complete() {} }; }
  button("regenerate", () => actions.regenerate(index));
  button("continue", () => actions.proceed(index));
  const markdown = new MarkdownView(body), text = el("div"), summary = el("summary"), think = el("details", { class: "think" }, summary, text);
  let waiting = false, work = Promise.resolve();
  const draw = (complete) => {
    waiting = false;
    if (message.thinking) {
      if (!think.isConnected) body.before(think);
      summary.textContent = message.content && message.thought ? t("thought", message.thought.toFixed(1)) : t("thinking");
      text.textContent = message.thinking;
    }
    work = work.then(() => markdown.update(message.content, complete));
    return work;
  };
  return { node, update() { if (!waiting) { waiting = true; requestAnimationFrame(() => draw(false)); } },
    async complete() { await draw(true); if (message.lens) node.append(lensPanel(message.lens)); } };
}
export function drawAll(box, messages, actions, from = Math.max(0, messages.length - SHOWN)) {
  const views = messages.slice(from).map((message, i) => messageView(message, from + i, actions));
  const more = from ? [el("button", { type: "button", onclick: () => drawAll(box, messages, actions, Math.max(0, from - 200)) }, t("earlier", from))] : [];
  box.replaceChildren(...more, ...views.map((view) => view.node));
  for (const view of views) view.complete();
  box.scrollTop = box.scrollHeight;
}
