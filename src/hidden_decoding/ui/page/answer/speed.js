// Tokens, tokens per second and the time to the first token, while an answer streams. A server that sends usage with
// every chunk is believed; otherwise each chunk of text counts as one token.

export class Speed {
  #sent = performance.now();
  #first = 0;
  #last = 0;
  #chunks = 0;
  #usage = null;

  /** A chunk arrived: with text or without, with usage or without. */
  take(hasText, usage) {
    if (hasText) {
      this.#last = performance.now();
      this.#first ||= this.#last;
      this.#chunks += 1;
    }
    if (usage?.completion_tokens != null) this.#usage = usage;
  }

  /** Seconds since the question left, while nothing has come. */
  get waiting() {
    return this.#first ? null : (performance.now() - this.#sent) / 1000;
  }

  /** Seconds since the first token. */
  get running() {
    return (performance.now() - this.#first) / 1000;
  }

  /** {tokens, rate, first, prompt, cached}; what is not known is missing. Seconds and tokens per second. */
  read() {
    if (!this.#first) return {};
    const tokens = this.#usage?.completion_tokens ?? this.#chunks;
    const seconds = (this.#last - this.#first) / 1000;
    const rate = tokens > 1 && seconds > 0 ? (tokens - 1) / seconds : undefined;
    const told = this.#usage?.metrics;
    return {
      tokens,
      rate: told?.tokens_per_second ?? rate,
      first: (this.#first - this.#sent) / 1000,
      ...(this.#usage?.prompt_tokens != null && { prompt: this.#usage.prompt_tokens }),
      ...(this.#usage?.prompt_tokens_details?.cached_tokens && {
        cached: this.#usage.prompt_tokens_details.cached_tokens,
      }),
    };
  }
}
