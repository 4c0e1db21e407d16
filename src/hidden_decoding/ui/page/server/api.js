// The API: its models, and an answer as a stream of chunks. Aborting the signal closes the connection, which is how the
// server learns that it may stop.
import { eventData } from "./events.js";

/** `status` is HTTP's, or 0 when the answer itself went wrong. */
export class ApiError extends Error {
  constructor(status, message, retryAfter = 0) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

async function call({ base, key }, path, options = {}) {
  const headers = {
    ...(options.body && { "content-type": "application/json" }),
    ...(key && { authorization: `Bearer ${key}` }),
  };
  const answer = await fetch(`${base}/${path}`, { ...options, headers, credentials: "omit" });
  if (answer.ok) return answer;
  const message = await messageOf(answer);
  throw new ApiError(answer.status, message, Number(answer.headers.get("retry-after")) || 0);
}

async function messageOf(answer) {
  try {
    const { error, message } = await answer.json();
    return String(error?.message ?? message ?? `HTTP ${answer.status}`);
  } catch {
    return `HTTP ${answer.status}`; // not in OpenAI's shape
  }
}

export async function models(server) {
  const { data } = await (await call(server, "models")).json();
  if (!Array.isArray(data)) throw new ApiError(0, "no list of models");
  return data.filter((model) => typeof model?.id === "string");
}

/** The chunks of one answer. Ends at [DONE]; a stream that ends before it throws, as does an error within it. */
export async function* chat(server, body, signal) {
  const answer = await call(server, "chat/completions", { method: "POST", body: JSON.stringify(body), signal });
  for await (const data of eventData(answer.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(0, String(chunk.error.message ?? chunk.error));
    yield chunk;
  }
  throw new ApiError(0, "");
}
