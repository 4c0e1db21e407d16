// Keeps a scrolling box at its end while the reader is there; one who scrolls up is left where they read.

const NEAR = 24; // pixels

export class Pinned {
  #atEnd = true;

  /** `toEnd` is the button that leads back to the end. */
  constructor(box, toEnd) {
    this.box = box;
    this.toEnd = toEnd;
    box.addEventListener("scroll", () => this.#look(), { passive: true });
    toEnd.addEventListener("click", () => this.jump());
    new ResizeObserver(() => this.follow()).observe(box);
  }

  /** Call after the content has grown. */
  follow() {
    if (!this.#atEnd) return this.#look();
    this.box.scrollTop = this.box.scrollHeight;
    // What comes into sight only now may be higher than it was taken for.
    requestAnimationFrame(() => {
      if (this.#atEnd) this.box.scrollTop = this.box.scrollHeight;
    });
  }

  jump() {
    this.#atEnd = true;
    this.follow();
  }

  /** To the beginning, where there is nothing to follow. */
  toBeginning() {
    this.#atEnd = false;
    this.box.scrollTop = 0;
    this.toEnd.hidden = true;
  }

  #look() {
    const below = this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight;
    this.#atEnd = below < NEAR;
    this.toEnd.hidden = below < this.box.clientHeight / 3;
  }
}
