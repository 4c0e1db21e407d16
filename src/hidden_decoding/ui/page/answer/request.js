// The body of a chat request: what is shown of the conversation, and the settings that the user has changed.

/**
 * `messages` end with the question, or, to go on (`proceed`), with the answer to be continued. Thinking of earlier
 * answers is not sent: chat templates drop it. The one that goes on is sent with it, since its text follows from it.
 */
export function requestBody({ messages, settings, model, lens, proceed }) {
  const system = settings.get("system").trim();
  return {
    ...(model && { model: model.id }),
    messages: [...(system ? [{ role: "system", content: system }] : []), ...messages.map(plain(messages, proceed))],
    ...settings.sampling(),
    stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true },
    ...(!settings.get("think") && { chat_template_kwargs: { enable_thinking: false } }),
    ...(proceed && { continue_final_message: true, add_generation_prompt: false }),
    ...(lens && { stream_lens: true }),
  };
}

const plain = (messages, proceed) => (message) => ({
  role: message.role,
  content: message.content,
  ...(proceed && message === messages.at(-1) && message.thinking && bothNames(message.thinking)),
});

// Servers disagree about the name; one that reads the other one loses the thinking.
const bothNames = (thinking) => ({ reasoning: thinking, reasoning_content: thinking });
