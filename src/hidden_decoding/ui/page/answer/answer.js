// One answer on its way: reads the stream into its message. Events: "text" (there is more), "done".
import { Emitter } from "../base/emitter.js";
import { isLens } from "../lens/data.js";
import { ApiError, chat } from "../server/api.js";
import { Speed } from "./speed.js";
import { ThinkingSplitter } from "./thinking.js";

const SAVE_EVERY = 2000; // milliseconds: what a closed tab can lose

export class Answer extends Emitter {
  #stopping = new AbortController();
  #splitter;
  #savedAt = performance.now();

  /** `keep()` saves the conversation; `message` may already hold text to go on from. */
  constructor({ message, server, body, keep }) {
    super();
    this.message = message;
    this.server = server;
    this.body = body;
    this.keep = keep;
    this.speed = new Speed();
    // An answer that goes on is past its thinking.
    this.#splitter = body.continue_final_message ? null : new ThinkingSplitter();
  }

  /** Closes the connection; what has arrived stays. */
  stop() {
    this.#stopping.abort();
  }

  async run() {
    delete this.message.failure;
    this.message.finish = "running";
    try {
      for await (const chunk of chat(this.server, this.body, this.#stopping.signal)) this.#take(chunk);
      if (this.message.finish === "running") this.message.finish = "stop";
    } catch (error) {
      this.#fail(error);
    }
    this.#end();
  }

  #take(chunk) {
    const choice = chunk.choices?.[0];
    const delta = choice?.delta ?? {};
    const thinking = delta.reasoning ?? delta.reasoning_content ?? "";
    this.speed.take(Boolean(thinking || delta.content), chunk.usage);
    if (thinking) this.#add({ thinking, content: "" });
    if (delta.content) this.#add(this.#splitter?.feed(delta.content) ?? { thinking: "", content: delta.content });
    if (isLens(choice?.stream_lens)) this.message.lens = choice.stream_lens;
    if (choice?.finish_reason) this.message.finish = choice.finish_reason;
    this.message.stats = this.speed.read();
    if (performance.now() - this.#savedAt > SAVE_EVERY) this.#save();
    this.emit("text");
  }

  #add({ thinking, content }) {
    const { message } = this;
    if (thinking) message.thinking = (message.thinking ?? "") + thinking;
    if (!content) return;
    // White space between thinking and answer belongs to neither.
    const text = message.thinking && !message.content ? content.trimStart() : content;
    if (text && message.thinking) message.thought ??= this.speed.running;
    message.content += text;
  }

  #save() {
    this.#savedAt = performance.now();
    this.keep();
  }

  #fail(error) {
    const { message } = this;
    if (this.#stopping.signal.aborted) {
      message.finish = "stopped";
      return;
    }
    message.finish = "failed";
    message.failure = describe(error);
  }

  #end() {
    const { message } = this;
    if (this.#splitter) this.#add(this.#splitter.finish());
    // vLLM's qwen3 parser calls an answer without tags thinking, also when thinking was switched off.
    if (!message.content && message.thinking && this.body.chat_template_kwargs?.enable_thinking === false) {
      message.content = message.thinking;
      delete message.thinking;
    }
    if (message.thinking) message.thought ??= this.speed.running;
    this.emit("done");
  }
}

/** What went wrong, as data: the words are chosen when it is shown (views/failure.js). */
function describe(error) {
  if (!(error instanceof ApiError)) return { kind: "lost", detail: "" };
  if (error.status === 401 || error.status === 403) return { kind: "key", detail: "" };
  if (error.status === 429 || error.status === 503) return { kind: "busy", detail: String(error.retryAfter || "") };
  return { kind: error.status ? "refused" : "broken", detail: error.message };
}
