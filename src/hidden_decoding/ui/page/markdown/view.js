// Markdown while it arrives: the text is cut into blocks; a finished block becomes DOM once and is never touched again,
// and only what follows it is read and drawn anew. In whatever pieces a text comes, the result is the same.
import { loadEngine } from "./engine.js";
import { Block } from "./blocks.js";
import { isOpen } from "./mathematics.js";

const PATIENCE = 12; // milliseconds of drawing blocks before the page gets a chance to do something else
const LONGEST_FORMULA = 4000; // characters; an open $$ that goes on for longer was none

export class MarkdownView {
  #done = 0; // characters of the text that are finished blocks
  #open = []; // blocks that may still change
  #drawn = ""; // what of the rest they show
  #ended = []; // colours and mathematics on their way

  constructor(node) {
    this.node = node;
  }

  /**
   * Draws what is new of the whole `text` so far, and returns whether that was all of it: a great deal at once is drawn
   * in several goes. `complete`: no more text comes, and all of it is drawn when this returns.
   */
  async update(text, complete = false) {
    const engine = await loadEngine();
    let isAll = this.#drawSome(engine, text, complete);
    while (complete && !isAll) {
      await new Promise((done) => setTimeout(done));
      isAll = this.#drawSome(engine, text, complete);
    }
    if (complete) await Promise.all(this.#ended);
    return isAll;
  }

  #drawSome(engine, text, complete) {
    const tail = text.slice(this.#done);
    if (tail === this.#drawn && !complete) return true;
    const tokens = engine.lexer(tail);
    const finished = complete ? tokens.length : settled(tokens);
    const reusable = this.#open;
    const next = () => reusable.shift() ?? new Block(engine, this.node);
    this.#open = [];
    const isAll = this.#finish(tokens.slice(0, finished), next);
    if (isAll) this.#drawOpen(tokens.slice(finished), next);
    // A block that turned out to belong to the one before it.
    for (const block of reusable) block.node.remove();
    this.#drawn = isAll ? text.slice(this.#done) : "";
    return isAll;
  }

  /** Draws blocks that will not change, for as long as there is patience; returns whether these were all. */
  #finish(tokens, next) {
    const until = performance.now() + PATIENCE;
    for (const token of tokens) {
      if (performance.now() > until) return false;
      this.#done += token.raw.length;
      if (isBlank(token)) continue;
      const block = next();
      block.draw(token);
      this.#ended.push(block.finish());
    }
    return true;
  }

  #drawOpen(tokens, next) {
    for (const [index, token] of tokens.entries()) {
      if (isBlank(token)) continue;
      const block = next();
      this.#open.push(block);
      if (isOpenFormula(token, tokens, index)) {
        block.drawSource(source(tokens.slice(index)));
        break;
      }
      block.draw(token);
    }
  }
}

// Definitions of links show nothing by themselves.
const isBlank = (token) => token.type === "space" || token.type === "def";
const source = (tokens) => tokens.map((token) => token.raw).join("");

function isOpenFormula(token, tokens, index) {
  return isOpen(token) && source(tokens.slice(index)).length < LONGEST_FORMULA;
}

/** How many tokens at the front can no longer change, whatever text follows. */
function settled(tokens) {
  const real = tokens.flatMap((token, index) => (isBlank(token) ? [] : [index]));
  // The last block can grow, and until its first line is complete it can still turn out to belong to the one before:
  // "2" after a list becomes its item "2. ".
  const last = real.at(-1) ?? 0;
  const isUnsure = last === tokens.length - 1 && !tokens[last].raw.includes("\n");
  const first = isUnsure ? (real.at(-2) ?? 0) : last;
  const formula = real.find((index) => isOpenFormula(tokens[index], tokens, index));
  return Math.min(first, formula ?? first);
}
