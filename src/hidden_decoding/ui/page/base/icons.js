// Icons as strokes on a grid of 24, in the colour of the text. `<i data-icon="plus">` in the page is filled once.
import { svg } from "./dom.js";

const STROKES = {
  check: "M5 12.5l4.5 4.5L19 7.5",
  close: "M6 6l12 12M18 6L6 18",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  down: "M12 5v14M6 13l6 6 6-6",
  download: "M12 4v11M7 10l5 5 5-5M5 20h14",
  edit: "M4 20l1-4.5L16 4.5l3.5 3.5L8.5 19z",
  forward: "M6 6l6 6-6 6M13 6l6 6-6 6",
  keyboard: "M3 6.5h18v11H3zM7 10h.5M11 10h.5M15 10h.5M8.5 14h7",
  left: "M14 6l-6 6 6 6",
  lens: "M4 5h16M4 10h7M4 15h5M20 20l-2.6-2.6M15 19a4 4 0 1 0 0-8 4 4 0 0 0 0 8z",
  menu: "M4 7h16M4 12h16M4 17h10",
  plus: "M12 5v14M5 12h14",
  refresh: "M19.5 12a7.5 7.5 0 1 1-2.4-5.5L19.5 9M19.5 4.5V9H15",
  right: "M10 6l6 6-6 6",
  search: "M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14zM20 20l-4-4",
  send: "M12 19V5M6 11l6-6 6 6",
  settings: [
    "M4 7h7.5M16.5 7H20M4 17h3.5M12.5 17H20",
    "M14 9.5a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5zM10 19.5a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5z",
  ].join(""),
  stop: "M7.5 7.5h9v9h-9z",
  think: "M9 18h6M10 21h4M9 18c0-2.5-3-4-3-8a6 6 0 0 1 12 0c0 4-3 5.5-3 8",
  trash: "M4.5 7h15M9.5 7V4.5h5V7M6.5 7l1 13h9l1-13",
  upload: "M12 16V5M7 10l5-5 5 5M5 20h14",
};

export function icon(name) {
  return svg(
    "svg",
    { class: `icon icon-${name}`, viewBox: "0 0 24 24", width: 20, height: 20, "aria-hidden": "true" },
    svg("path", { d: STROKES[name] }),
  );
}

export function fillIcons(root) {
  for (const place of root.querySelectorAll("[data-icon]")) place.replaceWith(icon(place.dataset.icon));
}
