// Tells thinking from the answer where the server does not: a `<think>` block at the very front of the text, in pieces.
// Later tags are ordinary text. (A server with a reasoning parser sends thinking in a field of its own.)

const OPEN = "<think>";
const CLOSE = "</think>";

/** Length of the longest end of `text` that begins `tag`. */
function partialTag(text, tag) {
  let size = Math.min(tag.length - 1, text.length);
  while (size > 0 && !text.endsWith(tag.slice(0, size))) size -= 1;
  return size;
}

export class ThinkingSplitter {
  #state = "start";
  #held = "";

  /** The next piece -> what is certain now, as {thinking, content}. */
  feed(piece) {
    this.#held += piece;
    const parts = { thinking: "", content: "" };
    if (this.#state === "start") this.#begin();
    if (this.#state === "thinking") this.#think(parts);
    if (this.#state === "content") this.#answer(parts);
    return parts;
  }

  /** What was held back, once no more text comes. */
  finish() {
    const held = this.#held;
    this.#held = "";
    return this.#state === "thinking" ? { thinking: held, content: "" } : { thinking: "", content: held };
  }

  #begin() {
    const front = this.#held.trimStart();
    if (front.startsWith(OPEN)) {
      this.#state = "thinking";
      this.#held = front.slice(OPEN.length).trimStart();
    } else if (!OPEN.startsWith(front)) {
      this.#state = "content";
    }
  }

  #think(parts) {
    const end = this.#held.indexOf(CLOSE);
    if (end >= 0) {
      parts.thinking = this.#held.slice(0, end).trimEnd();
      this.#held = this.#held.slice(end + CLOSE.length);
      this.#state = "content";
    } else {
      const sure = this.#held.length - partialTag(this.#held, CLOSE);
      parts.thinking = this.#held.slice(0, sure);
      this.#held = this.#held.slice(sure);
    }
  }

  #answer(parts) {
    parts.content = this.#held;
    this.#held = "";
  }
}
