/** On a screen keyboard Enter is the only way to a new line, and the button is near. */
export const hasScreenKeyboard = matchMedia("(hover: none) and (pointer: coarse)").matches;

/** Enter sends; Shift+Enter is a new line. While an input method composes, Enter chooses a word and sends nothing. */
export function isSending(event) {
  return event.key === "Enter" && !event.shiftKey && !hasScreenKeyboard && !isComposing(event);
}

/** Whether the key belongs to an input method that is composing. */
export const isComposing = (event) => event.isComposing || event.keyCode === 229;
