// The page: ties conversations, settings and the API together.
import * as api from "./api.js";
import { drawAll, messageView } from "./conversation.js";
import { byId, el } from "./dom.js";
import { choose, t } from "./i18n/index.js";
import { draw as drawSettings, key, settings } from "./settings.js";
import * as store from "./store.js";
const state = { conversations: [], current: null, models: [], config: null, running: null };
const base = () => (state.config.any_base_url && settings.base_url) || (state.config.apis[settings.api] ?? state.config.apis[0]).path;
const hasLens = () => state.config.lens || state.models.some((model) => model.stream_lens);
const notice = (text) => { byId("notice").textContent = text; byId("notice").hidden = !text; };
const save = () => { state.current.changed = Date.now(); return store.save(state.current).catch(() => notice(t("quota"))); };
function fresh() { state.running?.abort(); state.current = { id: crypto.randomUUID(), title: t("new"), changed: Date.now(), messages: [] }; show(); byId("input").focus(); }
function show() { byId("title").textContent = state.current.title; drawAll(byId("messages"), state.current.messages, actions); byId("speed").textContent = ""; drawList(); }
function drawList() {
  const wanted = byId("search").value.toLowerCase();
  const found = state.conversations.filter((c) => !wanted || c.title.toLowerCase().includes(wanted) || c.messages.some((m) => m.content.toLowerCase().includes(wanted)));
  byId("list").replaceChildren(...found.map((c) => el("li", {}, el("button", { class: "open", "aria-current": c === state.current && "true", onclick: () => { state.running?.abort(); state.current = c; byId("side").classList.remove("shown"); show(); } }, c.title),
    el("button", { class: "small", "aria-label": `${t("rename")}: ${c.title}`, onclick: () => { const title = prompt(t("rename"), c.title); if (title) { c.title = title; store.save(c).catch(() => notice(t("quota"))); if (c === state.current) byId("title").textContent = title; drawList(); } } }, "✎"),
    el("button", { class: "small", "aria-label": `${t("remove")}: ${c.title}`, onclick: async () => { await store.remove(c.id).catch(() => {}); state.conversations = state.conversations.filter((x) => x !== c); if (c === state.current) fresh(); else drawList(); } }, "×"))));
}
const actions = {
  edit(index) { if (state.running) return; byId("input").value = state.current.messages[index].content; state.current.messages.length = index; show(); save(); byId("input").focus(); },
  regenerate(index) { if (state.running) return; state.current.messages.length = index; show(); answer(); },
  proceed(index) { if (state.running) return; state.current.messages.length = index + 1; show(); answer(true); },
};
function body(proceed) {
  const messages = [...(settings.system ? [{ role: "system", content: settings.system }] : []), ...state.current.messages.slice(0, proceed ? undefined : -1).map(({ role, content }) => ({ role, content }))];
  const numbers = Object.fromEntries(["temperature", "top_p", "top_k", "max_tokens"].filter((name) => settings[name] !== "").map((name) => [name, Number(settings[name])]));
  const model = byId("model").value;
  return { ...(model && { model }), messages, ...numbers, stream: true, stream_options: { include_usage: true }, ...(!settings.think && { chat_template_kwargs: { enable_thinking: false } }),
    ...(proceed && { continue_final_message: true, add_generation_prompt: false }), ...(settings.lens && hasLens() && { stream_lens: true }) };
}
async function answer(proceed = false) {
  const { messages } = state.current, box = byId("messages"), conversation = state.current;
  if (!proceed) messages.push({ role: "assistant", content: "" });
  const message = messages.at(-1), index = messages.length - 1;
  const view = messageView(message, index, actions);
  if (proceed) box.lastElementChild.replaceWith(view.node); else box.append(view.node);
  const running = (state.running = new AbortController());
  byId("stop").hidden = false; byId("send").hidden = true; notice("");
  const sent = performance.now();
  let first = 0, count = 0, failure = null, savedAt = sent;
  const speed = () => { const seconds = (performance.now() - first) / 1000; byId("speed").textContent = first ? t("speed", count, seconds > 0 && count > 1 ? ((count - 1) / seconds).toFixed(1) : "–", ((first - sent) / 1000).toFixed(2)) : ""; };
  try {
    for await (const chunk of api.chat(base(), key.get(), body(proceed), running.signal)) {
      const choice = chunk.choices?.[0], delta = choice?.delta ?? {}, now = performance.now(), thought = delta.reasoning ?? delta.reasoning_content;
      if (thought || delta.content) { first ||= now; count += 1; }
      if (thought) message.thinking = (message.thinking ?? "") + thought;
      if (delta.content) { if (message.thinking) message.thought ??= (now - first) / 1000; message.content += delta.content; }
      if (choice?.stream_lens ?? chunk.stream_lens) message.lens = choice?.stream_lens ?? chunk.stream_lens;
      if (chunk.usage?.completion_tokens) count = chunk.usage.completion_tokens;
      const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 80;
      view.update(); speed();
      if (atEnd) requestAnimationFrame(() => { box.scrollTop = box.scrollHeight; });
      if (now - savedAt > 2000) { savedAt = now; store.save(conversation).catch(() => {}); }
    }
  } catch (error) { if (!running.signal.aborted) failure = error; }
  await view.complete();
  byId("stop").hidden = true; byId("send").hidden = false; state.running = null;
  if (failure) view.node.append(errorBox(failure, index));
  if (!message.content && !message.thinking && !failure) messages.pop();
  conversation.changed = Date.now();
  await store.save(conversation).catch(() => notice(t("quota")));
}
function errorBox(failure, index) {
  const text = failure.status === 401 ? t("e401") : failure.status === 429 ? t("e429", failure.retryAfter) : failure.status ? failure.message : failure instanceof api.ApiError ? `${t("broken")} ${failure.message === "broken" ? "" : failure.message}` : t("lost");
  return el("div", { class: "error", role: "alert" }, text, el("button", { type: "button", onclick: () => actions.regenerate(index) }, t("retry")));
}
function send() {
  const text = byId("input").value.trim();
  if (!text || state.running) return;
  if (!state.conversations.includes(state.current)) state.conversations.unshift(state.current);
  if (!state.current.messages.length) { state.current.title = text.slice(0, 60); byId("title").textContent = state.current.title; }
  state.current.messages.push({ role: "user", content: text });
  byId("input").value = "";
  byId("messages").append(messageView(state.current.messages.at(-1), state.current.messages.length - 1, actions).node);
  drawList(); save(); answer();
}
function download(name, type, text) { const link = el("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name }); link.click(); setTimeout(() => URL.revokeObjectURL(link.href), 1000); }
async function importFile() {
  const [file] = byId("file").files;
  try { const added = store.parseExport(await file.text()); state.conversations.unshift(...added); drawList(); notice(""); for (const c of added) await store.save(c).catch(() => notice(t("quota"))); } catch { notice(t("badfile")); }
  byId("file").value = "";
}
async function loadModels() {
  try { state.models = await api.models(base(), key.get()); } catch (error) { state.models = []; notice(error.status === 401 ? t("e401") : error.status ? error.message : t("lost")); }
  if (state.models.length) notice("");
  byId("model").replaceChildren(...state.models.map((model) => el("option", { value: model.id }, model.id)));
  redrawSettings();
}
function redrawSettings() { drawSettings(byId("settings"), state.config, hasLens(), changed); }
function changed(name) {
  document.documentElement.dataset.theme = settings.theme;
  if (name === "language") { choose(settings.language); redrawSettings(); show(); }
  if (["key", "api", "base_url"].includes(name)) loadModels();
}
async function start() {
  choose(settings.language); changed();
  byId("composer").onsubmit = (event) => { event.preventDefault(); send(); };
  byId("input").onkeydown = (event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229) { event.preventDefault(); send(); } };
  byId("stop").onclick = () => state.running?.abort();
  document.onkeydown = (event) => { if (event.key === "Escape") state.running?.abort(); };
  byId("new").onclick = fresh; byId("search").oninput = drawList;
  byId("menu").onclick = () => byId("side").classList.toggle("shown");
  byId("options").onclick = () => { const panel = byId("settings"); panel.hidden = !panel.hidden; byId("options").setAttribute("aria-expanded", String(!panel.hidden)); };
  byId("export").onclick = () => download("chats.json", "application/json", JSON.stringify({ format: "hidden-decoding-chat", conversations: state.conversations }));
  byId("markdown").onclick = () => download("chat.md", "text/markdown", state.current.messages.map((m) => `**${m.role}**\n\n${m.content}`).join("\n\n---\n\n"));
  byId("import").onclick = () => byId("file").click(); byId("file").onchange = importFile;
  state.config = await api.findConfig();
  try { const { conversations, damaged } = await store.loadAll(); state.conversations = conversations; if (damaged) notice(t("corrupt", damaged)); } catch { notice(t("quota")); }
  state.current = state.conversations[0];
  if (state.current) show(); else fresh();
  await loadModels();
  document.documentElement.dataset.ready = "";
}
start();
