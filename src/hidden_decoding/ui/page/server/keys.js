// API keys, one per server, for this tab's session only: never in a URL, an export or a lasting store.

const place = (base) => `hidden-decoding-key ${base}`;

export const keyOf = (base) => sessionStorage.getItem(place(base)) ?? "";

export function keepKey(base, key) {
  if (key) sessionStorage.setItem(place(base), key);
  else sessionStorage.removeItem(place(base));
}
