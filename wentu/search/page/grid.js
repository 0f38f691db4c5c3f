// Rows of pictures, each row as wide as the page and as high as its pictures need.
//
// The places follow from width and height alone, before a picture is there: nothing jumps. Only what
// is near the window is in the document, so thousands of hits cost no more than fifty. A row that is
// not full waits for the next page, or for the end.

import { thumbnail } from "./api.js";
import { icon, later, make } from "./dom.js";
import { languageOf, t } from "./words.js";

const NARROWEST = 0.5;
const WIDEST = 2.6;
const MARGIN = 1000;

/** What to call a picture: its file's name. */
export const nameOf = (hit) => (hit.paths[0] || hit.id).split("/").pop();

/** What to tell somebody who does not see it. */
export const altOf = (hit) => hit.captions[0] || nameOf(hit);

const ratioOf = (hit) => {
  const ratio = hit.width && hit.height ? hit.width / hit.height : 1;
  return Math.min(Math.max(ratio, NARROWEST), WIDEST);
};

/** Places for pictures of these ratios, row by row: `[{top, height, places: [{left, width}]}]`.
 *
 * The last row is left out unless `ended`; then it is not stretched.
 */
export function rowsOf(ratios, width, height, gap, ended) {
  const rows = [];
  let top = 0;
  let first = 0;
  let sum = 0;
  const close = (until, tall) => {
    let left = 0;
    const places = ratios.slice(first, until).map((ratio) => {
      const place = { left, width: ratio * tall };
      left += place.width + gap;
      return place;
    });
    rows.push({ first, top, height: tall, places });
    top += tall + gap;
    first = until;
    sum = 0;
  };
  ratios.forEach((ratio, index) => {
    sum += ratio;
    const room = width - gap * (index - first);
    if (sum * height >= room) close(index + 1, room / sum);
  });
  if (ended && first < ratios.length) {
    close(ratios.length, Math.min(height, rows.at(-1)?.height ?? height)); // in line with the others
  }
  return rows;
}

/** The grid. `act`: what happens for `open(index)`, `like(hit)`; `address(hit)`: a link to it. */
export class Grid {
  constructor(list, act) {
    this.list = list;
    this.act = act;
    this.hits = [];
    this.rows = [];
    this.tiles = new Map(); // index -> its element in the document
    this.current = 0; // the one that Tab comes to
    this.ended = true;
    this.width = 0;
    let asked = false;
    const soon = () => {
      if (!asked) requestAnimationFrame(() => { asked = false; this.fill(); });
      asked = true;
    };
    addEventListener("scroll", soon, { passive: true });
    new ResizeObserver(later(() => this.measure(), 60)).observe(list.parentElement);
    list.addEventListener("keydown", (event) => this.key(event));
  }

  /** Begin anew with a first page; `ended`: there is no other. The keyboard stays in the grid. */
  show(hits, ended) {
    const held = this.list.contains(document.activeElement);
    for (const tile of this.tiles.values()) tile.remove();
    this.tiles.clear();
    this.hits = [...hits];
    this.ended = ended;
    this.current = 0;
    this.lay();
    if (held) (this.link(0) || this.list.closest("main")).focus({ preventScroll: true });
  }

  /** Another page. */
  add(hits, ended) {
    this.hits.push(...hits);
    this.ended = ended;
    this.lay();
  }

  /** Lay it out anew where the window's width changed; what is at the top stays there. */
  measure() {
    if (Math.abs(this.list.clientWidth - this.width) < 1) return;
    const above = this.rows.find((row) => row.top + row.height > scrollY - this.list.offsetTop);
    const index = above && scrollY > this.list.offsetTop ? above.first : -1;
    this.lay();
    const row = index >= 0 && this.rowOf(index);
    if (row) scrollTo({ top: this.list.offsetTop + row.top - 80, behavior: "instant" });
  }

  lay() {
    this.width = this.list.clientWidth;
    const style = getComputedStyle(this.list);
    const height = Number.parseFloat(style.getPropertyValue("--row"));
    const gap = Number.parseFloat(style.getPropertyValue("--gap"));
    this.rows = rowsOf(this.hits.map(ratioOf), this.width, height, gap, this.ended);
    const last = this.rows.at(-1);
    this.list.style.height = last ? `${last.top + last.height}px` : "0";
    for (const [index, tile] of this.tiles) this.place(index, tile);
    this.fill();
  }

  rowOf(index) {
    return this.rows.find((row) => index >= row.first && index < row.first + row.places.length);
  }

  /** Put into the document what is near the window, and take out the rest. */
  fill() {
    const from = scrollY - this.list.offsetTop - MARGIN;
    const to = from + innerHeight + 2 * MARGIN;
    const wanted = new Set();
    for (const row of this.rows) {
      if (row.top + row.height < from || row.top > to) continue;
      row.places.forEach((_, at) => wanted.add(row.first + at));
    }
    for (const [index, tile] of this.tiles) {
      if (wanted.has(index) || tile.contains(document.activeElement)) continue;
      tile.remove();
      this.tiles.delete(index);
    }
    for (const index of wanted) if (!this.tiles.has(index)) this.mount(index);
  }

  mount(index) {
    const tile = this.tile(index);
    this.tiles.set(index, tile);
    this.place(index, tile);
    let next = null; // in the order of the hits, for Tab and for screen readers
    for (const [other, each] of this.tiles) {
      if (other > index && (next === null || other < next.index)) next = { index: other, each };
    }
    this.list.insertBefore(tile, next && next.each);
  }

  place(index, tile) {
    tile.setAttribute("aria-setsize", this.ended ? this.hits.length : -1);
    const row = this.rowOf(index);
    if (!row) return;
    const { left, width } = row.places[index - row.first];
    Object.assign(tile.style, {
      left: `${left}px`, top: `${row.top}px`, width: `${width}px`, height: `${row.height}px`,
    });
  }

  tile(index) {
    const hit = this.hits[index];
    const name = nameOf(hit);
    const picture = make("img", {
      src: thumbnail(hit.id), alt: altOf(hit), lang: languageOf(altOf(hit)), decoding: "async",
      draggable: "false",
    });
    if (!picture.complete) {
      picture.classList.add("coming");
      picture.addEventListener("load", () => picture.classList.remove("coming"));
    }
    picture.addEventListener("error", () => {
      picture.classList.replace("coming", "missing");
    });
    const link = make("a", {
      href: this.act.address(hit), tabindex: index === this.current ? "0" : "-1",
      "data-index": index,
      onclick: (event) => {
        if (event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
        event.preventDefault();
        this.act.open(index);
      },
      onfocus: () => this.select(index),
    }, picture);
    const caption = make("span", {
      class: "caption", lang: languageOf(altOf(hit)), "aria-hidden": "true",
    }, altOf(hit));
    const like = make("button", {
      type: "button", class: "like", tabindex: "-1", title: t("more"),
      "aria-label": t("moreLike", { name }), onclick: () => this.act.like(hit),
    }, icon("like"));
    const tile = make("li", { class: "tile", "aria-posinset": index + 1 }, link, caption, like);
    const folded = hit.similar?.length || 0;
    if (folded) {
      tile.append(make("button", {
        type: "button", class: "folded", title: t("similar", { count: folded }),
        "aria-label": t("showSimilar", { count: folded, name }),
        onclick: () => this.act.open(index),
      }, `+${folded}`));
    }
    return tile;
  }

  select(index) {
    this.link(this.current)?.setAttribute("tabindex", "-1");
    this.current = index;
    this.link(index)?.setAttribute("tabindex", "0");
  }

  link(index) {
    return this.tiles.get(index)?.querySelector("a");
  }

  /** Bring the keyboard to a picture. */
  focus(index) {
    const row = this.rowOf(index);
    if (!row) return;
    if (!this.tiles.has(index)) this.mount(index);
    this.select(index);
    this.link(index).focus({ preventScroll: true });
    this.tiles.get(index).scrollIntoView({ block: "nearest" });
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || !event.target.dataset.index) return;
    const index = Number(event.target.dataset.index);
    const steps = {
      ArrowLeft: () => index - 1,
      ArrowRight: () => index + 1,
      ArrowUp: () => this.beside(index, -1),
      ArrowDown: () => this.beside(index, 1),
      Home: () => 0,
      End: () => this.shown() - 1,
    };
    const next = steps[event.key]?.();
    if (next === undefined) return;
    event.preventDefault();
    if (next >= 0 && next < this.shown()) this.focus(next);
  }

  /** How many have a place. */
  shown() {
    const last = this.rows.at(-1);
    return last ? last.first + last.places.length : 0;
  }

  /** The picture of the row above (-1) or below (1) that stands nearest. */
  beside(index, step) {
    const at = this.rows.findIndex((row) => row.first <= index && index < row.first + row.places.length);
    const row = this.rows[at];
    const other = this.rows[at + step];
    if (!other) return index;
    const middle = (place) => place.left + place.width / 2;
    const x = middle(row.places[index - row.first]);
    const far = other.places.map((place) => Math.abs(middle(place) - x));
    return other.first + far.indexOf(Math.min(...far));
  }
}
