// The `stream_lens` field of an answer (docs/serving.md), checked before it is drawn, and what is read off it.
//
//   {streams, layers: [name], cosine: [layer][stream], tokens: [{token_id, token, streams: [guess]}]}
//   guess  {entropy_bits, agrees, top: [{token_id, token, probability}]}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const isText = (value) => typeof value === "string";
const all = (list, check) => Array.isArray(list) && list.every(check);

const isGuess = (guess) => guess && isText(guess.token) && isNumber(guess.probability);

const isStream = (stream) =>
  stream && isNumber(stream.entropy_bits) && typeof stream.agrees === "boolean" && all(stream.top, isGuess);

export function isLens(lens) {
  const count = lens?.streams;
  if (!Number.isInteger(count) || count < 1) return false;
  const ofAllStreams = (check) => (list) => all(list, check) && list.length === count;
  const isToken = (token) => token && isText(token.token) && ofAllStreams(isStream)(token.streams);
  return (
    all(lens.layers, isText) &&
    all(lens.cosine, ofAllStreams(isNumber)) &&
    lens.cosine.length === lens.layers.length &&
    all(lens.tokens, isToken) &&
    lens.tokens.length > 0
  );
}

/** The share of tokens for which a stream's likeliest token is the last stream's. */
export function agreement(lens, stream) {
  return lens.tokens.filter((token) => token.streams[stream].agrees).length / lens.tokens.length;
}

/** The largest entropy anywhere: the end of the colour scale. */
export function mostBits(lens) {
  return Math.max(1, ...lens.tokens.flatMap((token) => token.streams.map((stream) => stream.entropy_bits)));
}

/** A token's text with its white space to be seen. */
export function shown(text) {
  const seen = text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/\r/g, "␍");
  return /^ *$/.test(seen) ? seen.replace(/ /g, "␣") || "∅" : seen;
}

/** The same in a table, where a space in front would not be seen. */
export const shownAlone = (text) => shown(text).replace(/^ +/, (spaces) => "·".repeat(spaces.length));

export const percent = (share) => `${(100 * share).toFixed(1)}%`;
