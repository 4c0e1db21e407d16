// The API: where it is, which models it has, and an answer as a stream of chunks. Aborting closes the connection.
export class ApiError extends Error {
  constructor(status, message, retryAfter) { super(message); this.status = status; this.retryAfter = retryAfter; }
}
export async function findConfig() {
  const guess = location.pathname.includes("/plugins/") ? "../../v1" : "v1";
  const fallback = { apis: [{ name: "server", path: guess }], lens: false, any_base_url: false };
  try {
    const answer = await fetch("config.json");
    return answer.ok ? { ...fallback, ...(await answer.json()) } : fallback;
  } catch { return fallback; }
}
async function call(base, path, key, options = {}) {
  const headers = { ...(options.body && { "content-type": "application/json" }), ...(key && { authorization: `Bearer ${key}` }) };
  const answer = await fetch(`${base}/${path}`, { ...options, headers });
  if (answer.ok) return answer;
  let message = `HTTP ${answer.status}`;
  try { message = (await answer.json()).error.message; } catch { /* not in OpenAI's shape */ }
  throw new ApiError(answer.status, message, Number(answer.headers.get("retry-after")) || 1);
}
export const models = async (base, key) => (await (await call(base, "models", key)).json()).data;
export async function* chat(base, key, body, signal) {
  const answer = await call(base, "chat/completions", key, { method: "POST", body: JSON.stringify(body), signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new ApiError(0, "broken");
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(0, chunk.error.message);
      yield chunk;
    }
  }
}
