// The side list and the settings: beside the conversation where there is room, over it on a phone, where only one of
// the three can be used at a time.
import { byId } from "../base/dom.js";

const narrow = matchMedia("(max-width: 760px)");

class Drawer {
  constructor(id, buttons, isOpen) {
    this.node = byId(id);
    this.buttons = buttons.map(byId);
    this.isOpen = isOpen;
  }

  draw() {
    this.node.hidden = !this.isOpen;
    for (const button of this.buttons) button.setAttribute("aria-expanded", String(this.isOpen));
  }
}

export class Drawers {
  constructor(settings) {
    this.settings = settings;
    this.side = new Drawer("side", ["menu"], !narrow.matches && settings.get("side"));
    this.options = new Drawer("settings", ["options"], false);
    this.all = [this.side, this.options];
    byId("menu").addEventListener("click", () => this.toggle(this.side));
    byId("options").addEventListener("click", () => this.toggle(this.options));
    byId("close-settings").addEventListener("click", () => this.close(this.options));
    byId("close-side").addEventListener("click", () => this.close(this.side));
    byId("scrim").addEventListener("click", () => this.closeOver());
    narrow.addEventListener("change", () => this.#onWidth());
    this.draw();
  }

  toggle(drawer) {
    if (drawer.isOpen) this.close(drawer);
    else this.open(drawer);
  }

  open(drawer) {
    if (narrow.matches) for (const other of this.all) other.isOpen = false;
    drawer.isOpen = true;
    this.#remember();
    drawer.node.querySelector("button, input")?.focus({ preventScroll: true });
  }

  close(drawer) {
    const hadFocus = drawer.node.contains(document.activeElement);
    drawer.isOpen = false;
    this.#remember();
    if (hadFocus) drawer.buttons[0].focus();
  }

  /** Whether something was over the conversation, and is not any more. */
  closeOver() {
    const open = narrow.matches ? this.all.find((drawer) => drawer.isOpen) : null;
    if (open) this.close(open);
    return Boolean(open);
  }

  #remember() {
    if (!narrow.matches) this.settings.set("side", this.side.isOpen);
    this.draw();
  }

  #onWidth() {
    this.side.isOpen = !narrow.matches && this.settings.get("side");
    if (narrow.matches) this.options.isOpen = false;
    this.draw();
  }

  draw() {
    for (const drawer of this.all) drawer.draw();
    const isOver = narrow.matches && this.all.some((drawer) => drawer.isOpen);
    byId("scrim").hidden = !isOver;
    byId("main").inert = isOver;
  }
}
