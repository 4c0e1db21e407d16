// Draws at most once per frame, and leaves twice the time the last drawing took before the next one: however long an
// answer has become, the page keeps answering to its user.

export class Painter {
  #draw;
  #asked = false;
  #notBefore = 0;

  constructor(draw) {
    this.#draw = draw;
  }

  request() {
    if (this.#asked) return;
    this.#asked = true;
    const wait = this.#notBefore - performance.now();
    if (wait > 16) setTimeout(() => this.#schedule(), wait);
    else this.#schedule();
  }

  // A tab in the background gets no frames; it still has to keep up.
  #schedule() {
    if (document.hidden) setTimeout(() => this.#run(), 200);
    else requestAnimationFrame(() => this.#run());
  }

  async #run() {
    const started = performance.now();
    this.#asked = false;
    await this.#draw();
    const now = performance.now();
    this.#notBefore = now + 2 * (now - started);
  }
}
