// The chat page: makes its parts and joins them. What happens to a question: views/composer -> answer/actions ->
// answer/request -> server/api -> answer/answer -> views/message -> markdown/view.
import { Actions } from "./answer/actions.js";
import { byId } from "./base/dom.js";
import { fillIcons } from "./base/icons.js";
import { Chats } from "./data/chats.js";
import { Settings } from "./data/settings.js";
import { chooseLanguage, t } from "./i18n/index.js";
import { Servers, pageConfig } from "./server/servers.js";
import { Composer } from "./views/composer.js";
import { ConversationView } from "./views/conversation.js";
import { Drawers } from "./views/drawers.js";
import { List } from "./views/list.js";
import { notice } from "./views/notices.js";
import { Picker } from "./views/picker.js";
import { SettingsPanel } from "./views/settings_panel.js";
import { Shortcuts } from "./views/shortcuts.js";

function applyTheme(settings) {
  const theme = settings.get("theme");
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

async function loadChats(chats) {
  try {
    const damaged = await chats.load();
    if (damaged) notice(t("damaged", damaged));
  } catch {
    notice(t("unsaved"));
  }
}

function makeViews(parts) {
  const drawers = new Drawers(parts.settings);
  const shortcuts = new Shortcuts({ ...parts, drawers });
  const views = {
    list: new List({ ...parts, onChosen: () => drawers.closeOver() }),
    picker: new Picker(parts),
    panel: new SettingsPanel(parts),
    composer: new Composer(parts),
    conversation: new ConversationView(parts),
  };
  for (const id of ["new", "new-narrow"]) byId(id).addEventListener("click", () => shortcuts.begin());
  return views;
}

function follow({ settings, chats }, views) {
  settings.on("change", (name) => {
    if (name === "theme") applyTheme(settings);
    if (name !== "language") return;
    chooseLanguage(settings.get("language"));
    for (const view of [views.list, views.picker, views.panel, views.composer]) view.draw();
    views.conversation.redraw();
  });
  chats.on("unsaved", () => notice(t("unsaved")));
}

async function start() {
  const settings = new Settings();
  fillIcons(document);
  chooseLanguage(settings.get("language"));
  const chats = new Chats();
  const [config] = await Promise.all([pageConfig(), loadChats(chats)]);
  const servers = new Servers(config, settings);
  const actions = new Actions({ chats, servers, settings });
  const views = makeViews({ settings, chats, servers, actions });
  follow({ settings, chats }, views);
  views.list.draw();
  byId("input").focus();
  await Promise.all([views.conversation.draw(), servers.refresh()]);
  document.documentElement.dataset.ready = "";
}

start();
