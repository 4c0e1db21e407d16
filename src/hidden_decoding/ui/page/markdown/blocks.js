// One block of an answer as DOM, drawn again and again until it is finished, each time touching only what is new: the
// last item of a list, the last row of a table, the last line of code, or all of a paragraph.
import { el } from "../base/dom.js";
import { codeFrame, colourCode, frameCode } from "./code.js";
import { drawMathematics, drawMathematicsNow } from "./mathematics.js";

const LINES_PER_GROUP = 40;

/** Colours and mathematics, drawn once. A fault in a library leaves the plain text. */
async function polish(node) {
  await Promise.all([colourCode(node), drawMathematics(node)]).catch(() => {});
}

class Plain {
  static key = () => "plain";

  constructor(engine, node) {
    this.engine = engine;
    this.node = node;
  }

  draw(token) {
    this.node.replaceChildren(this.engine.fragment(token));
    frameCode(this.node);
    drawMathematicsNow(this.node);
  }
}

/** Items of a list or rows of a table: all but the last are complete, and stay as they are. */
class Growing {
  #parent = null;
  #count = 0;

  constructor(engine, node) {
    this.engine = engine;
    this.node = node;
  }

  draw(token) {
    const parts = this.parts(token);
    const from = this.#parent ? Math.max(0, this.#count - 1) : 0;
    const fragment = this.engine.fragment(this.part(token, parts.slice(from)));
    frameCode(fragment);
    drawMathematicsNow(fragment);
    const drawn = fragment.querySelector(this.selector);
    if (this.#parent && drawn) this.#replaceLast(drawn);
    else this.#begin(fragment, drawn);
    this.#count = parts.length;
  }

  #begin(fragment, drawn) {
    this.node.replaceChildren(fragment);
    this.#parent = drawn;
  }

  #replaceLast(drawn) {
    this.#parent.lastElementChild?.remove();
    this.#parent.append(...drawn.children);
  }
}

class List extends Growing {
  selector = "ol, ul";
  // Marks that change how all items look make it another list.
  static key = (token) => `list ${token.ordered} ${token.loose} ${token.start}`;

  parts = (token) => token.items;
  part = (token, items) => ({ ...token, items });
}

class Table extends Growing {
  selector = "tbody";
  static key = (token) => (token.rows.length ? `table ${token.header.length}` : "plain");

  parts = (token) => token.rows;
  part = (token, rows) => ({ ...token, rows });
}

/** Lines are appended in groups, each laid out by itself, so that a long program costs no more than a short one. */
class Code {
  static key = (token) => `code ${token.lang ?? ""}`;
  #shown = "";
  #lines = 0;

  constructor(engine, node) {
    this.node = node;
  }

  draw(token) {
    // Markdown leaves out the last line break, which would come back with the next line.
    const text = token.text;
    if (!this.code || !text.startsWith(this.#shown)) this.#begin(token);
    this.#append(text.slice(this.#shown.length));
    this.#shown = text;
  }

  #begin(token) {
    const [language = ""] = (token.lang ?? "").match(/\S+/) ?? [];
    this.code = el("code", language ? { class: `language-${language}` } : {});
    this.node.replaceChildren(codeFrame(el("pre", {}, this.code), language));
    this.#shown = "";
    this.#newGroup();
  }

  #append(added) {
    for (const line of added.split(/(?<=\n)/)) {
      if (this.#lines >= LINES_PER_GROUP) this.#newGroup();
      this.group.appendData(line);
      if (line.endsWith("\n")) this.#lines += 1;
    }
  }

  #newGroup() {
    this.#lines = 0;
    this.group = document.createTextNode("");
    this.code.append(el("span", { class: "lines" }, this.group));
  }
}

const KINDS = { list: List, table: Table, code: Code };

/** A block's place in the message, and how it is drawn. */
export class Block {
  #key = "";
  #raw = "";

  constructor(engine, parent) {
    this.engine = engine;
    this.node = parent.appendChild(el("div", { class: "block" }));
  }

  draw(token) {
    if (token.raw === this.#raw) return;
    const kind = KINDS[token.type] ?? Plain;
    const key = kind.key(token);
    if (key !== this.#key) this.view = new (key === "plain" ? Plain : kind)(this.engine, this.node);
    this.#key = key;
    this.#raw = token.raw;
    this.view.draw(token);
  }

  /** Source that cannot be drawn yet. */
  drawSource(text) {
    this.#key = "source";
    this.#raw = "";
    this.node.textContent = text;
  }

  /** No more text comes: polishes the block, after which nothing in it changes. */
  async finish() {
    await polish(this.node);
    this.node.dataset.finished = "";
  }
}
