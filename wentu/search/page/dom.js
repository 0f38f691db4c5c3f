// Small helpers for elements, so that the other modules say what is shown and not how.

const ICONS = {
  search: "M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14ZM16 16l4.500 4.500",
  close: "M6 6l12 12M18 6 6 18",
  picture: "M4 8.500h3.500L9 6h6l1.500 2.500H20a1 1 0 0 1 1 1V18a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1V9.500a1 1 0 0 1 1-1ZM12 16.500a3.250 3.250 0 1 0 0-6.500 3.250 3.250 0 0 0 0 6.500Z",
  speak: "M12 15a3 3 0 0 0 3-3V6a3 3 0 0 0-6 0v6a3 3 0 0 0 3 3ZM6 11.500a6 6 0 0 0 12 0M12 17.500V21",
  filter: "M4 7h9M17 7h3M4 17h3M11 17h9M15 4.500v5M9 14.500v5",
  about: "M12 3.500a8.500 8.500 0 1 0 0 17 8.500 8.500 0 0 0 0-17ZM12 11v5.500M12 7.500v.2",
  auto: "M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16ZM12 4v16M12 8h5.500M12 12h8M12 16h5.500",
  light: "M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8ZM12 2.500v2M12 19.500v2M2.500 12h2M19.500 12h2M5.300 5.300l1.400 1.400M17.300 17.300l1.400 1.400M5.300 18.700l1.400-1.400M17.300 6.700l1.400-1.400",
  dark: "M19.500 14.500A8 8 0 0 1 9.500 4.500a8 8 0 1 0 10 10Z",
  before: "M15 5l-7 7 7 7",
  after: "M9 5l7 7-7 7",
  like: "M4 5h7v7H4zM13 12h7v7h-7zM15 5h5v4M9 19H4v-4",
  download: "M12 4v11M7.500 11 12 15.500 16.500 11M5 20h14",
  link: "M10 14a4 4 0 0 0 5.700 0l3-3A4 4 0 0 0 13 5.300l-1 1M14 10a4 4 0 0 0-5.700 0l-3 3A4 4 0 0 0 11 18.700l1-1",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
};

/** Make an element: `make("a", {class: "x", href: "#", onclick: f}, "text", child)`. */
export function make(name, given = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(given)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "class") element.className = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** The element with an id. */
export const by = (id) => document.getElementById(id);

/** A stroked picture of 24 by 24 units that tells nothing to a screen reader. */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const path = document.createElementNS(space, "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("icon");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A button with an icon and, beside it or as its label alone, a text. */
export function button(name, text, act, { label = false, ...given } = {}) {
  const inside = label ? [icon(name)] : [icon(name), make("span", {}, text)];
  const said = label ? { "aria-label": text, title: text } : {};
  return make("button", { type: "button", onclick: act, ...said, ...given }, ...inside);
}

/** Wait until nothing was asked for `pause` milliseconds, then do it once. */
export function later(act, pause) {
  let timer = 0;
  const ask = (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(...given), pause);
  };
  ask.cancel = () => clearTimeout(timer);
  return ask;
}

/** What was kept between visits; "" where storage is forbidden or holds nothing. */
export function kept(name) {
  try {
    return localStorage.getItem(`wentu.${name}`) || "";
  } catch {
    return "";
  }
}

/** Keep a text between visits, where storage is allowed. */
export function keep(name, value) {
  try {
    localStorage.setItem(`wentu.${name}`, value);
  } catch {
    // the choice then lasts for this visit only
  }
}

/** Copy a text; also where the page came by plain http and has no clipboard of its own. */
export async function copy(text, beside) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = make("textarea", { readonly: true, class: "unseen", "aria-hidden": "true" });
    area.value = text;
    const before = document.activeElement;
    beside.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    before?.focus();
    return done;
  }
}
