// Markdown while it arrives: the text is cut into blocks; a finished block becomes DOM once and is never touched again,
// and only what follows it is read and drawn anew. In whatever pieces a text comes, the result is the same.
import { loadEngine } from "./engine.js";
import { Block } from "./blocks.js";
import { isOpen } from "./mathematics.js";

const LONGEST_FORMULA = 4000; // characters; an open $$ that goes on for longer was none

export class MarkdownView {
  #done = 0; // characters of the text that are finished blocks
  #open = []; // blocks that may still change
  #drawn = "";

  constructor(node) {
    this.node = node;
  }

  /** Draws what is new of the whole `text` so far. `complete`: no more comes. */
  async update(text, complete = false) {
    const engine = await loadEngine();
    const tail = text.slice(this.#done);
    if (tail === this.#drawn && !complete) return;
    const tokens = engine.lexer(tail);
    const finished = complete ? tokens.length : settled(tokens);
    const reusable = this.#open;
    const next = () => reusable.shift() ?? new Block(engine, this.node);
    this.#open = [];
    const ended = this.#finish(tokens.slice(0, finished), next);
    this.#drawOpen(tokens.slice(finished), next);
    // A block that turned out to belong to the one before it.
    for (const block of reusable) block.node.remove();
    this.#drawn = text.slice(this.#done);
    if (complete) await Promise.all(ended);
  }

  #finish(tokens, next) {
    const ended = [];
    for (const token of tokens) {
      this.#done += token.raw.length;
      if (isBlank(token)) continue;
      const block = next();
      block.draw(token);
      ended.push(block.finish());
    }
    return ended;
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
