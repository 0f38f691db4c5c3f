// One picture, large: its thumbnail at once, its own file as soon as that is here.

import { get, original, thumbnail } from "./api.js";
import { button, by, copy, icon, make } from "./dom.js";
import { altOf, nameOf } from "./grid.js";
import { languageOf, moment, number, t } from "./words.js";

const SWIPE = 60;

/** The dialog. `act`: `close()`, `step(by)`, `like(hit)`, `visit(id)`, `tell(text)`. */
export class Viewer {
  constructor(dialog, act) {
    this.dialog = dialog;
    this.act = act;
    this.hit = null;
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      act.close();
    });
    addEventListener("keydown", (event) => { // behind its last button the focus is nowhere
      if (!dialog.open || event.altKey || event.ctrlKey || event.metaKey) return;
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) act.step(step);
    });
    let start = null;
    dialog.addEventListener("touchstart", (event) => {
      start = event.touches.length === 1 ? event.touches[0] : null;
    }, { passive: true });
    dialog.addEventListener("touchend", (event) => {
      if (start === null || visualViewport?.scale > 1) return;
      const end = event.changedTouches[0];
      const across = end.clientX - start.clientX;
      const along = Math.abs(end.clientY - start.clientY); // whoever scrolls slants a little
      if (Math.abs(across) > Math.max(SWIPE, 2 * along)) act.step(across < 0 ? 1 : -1);
    });
  }

  /** Show a hit; `at`: {before, after} are there others?, `originals`: can files be had? */
  show(hit, at, originals) {
    const same = this.hit?.id === hit.id && this.dialog.open;
    const focused = this.dialog.contains(document.activeElement) && document.activeElement.id;
    this.hit = hit;
    this.dialog.replaceChildren(this.stage(hit, at), this.panel(hit, originals));
    if (!this.dialog.open) this.dialog.showModal();
    (by(focused) || by("viewer-close")).focus();
    if (by(focused)?.disabled) by("viewer-close").focus();
    if (originals) this.sharpen(hit);
    if (!same) this.learn(hit);
  }

  hide() {
    this.hit = null;
    if (this.dialog.open) this.dialog.close();
    this.dialog.replaceChildren();
  }

  stage(hit, at) {
    const picture = make("img", { src: thumbnail(hit.id), alt: altOf(hit), lang: languageOf(altOf(hit)), class: "thumb" });
    const size = (width, height) => {
      picture.style.setProperty("--ratio", width / height);
      picture.style.setProperty("--wide", `${Math.max(width, Math.min(4 * width, 640))}px`);
    };
    size(hit.width || 1, hit.height || 1);
    if (!hit.width) picture.addEventListener("load", () => size(picture.naturalWidth, picture.naturalHeight));
    const arrow = (name, step, there) => button(name, t(name), () => this.act.step(step), {
      label: true, class: `arrow ${name}`, id: `viewer-${name}`, disabled: !there,
    });
    return make("div", { class: "stage" }, arrow("before", -1, at.before), picture, arrow("after", 1, at.after));
  }

  /** The file itself instead of the thumbnail, when it is here whole. */
  async sharpen(hit) {
    const picture = this.dialog.querySelector(".stage img");
    const file = make("img", { src: original(hit.id) });
    try {
      await file.decode();
      if (this.hit !== hit) return;
      picture.src = file.src;
      picture.classList.remove("thumb");
    } catch {
      if (this.hit === hit) this.dialog.querySelector(".panel")?.append(make("p", { class: "faint" }, t("noOriginal")));
    }
  }

  /** What only the page of the picture knows. */
  async learn(hit) {
    try {
      const known = await get(`pictures/${hit.id}`);
      if (this.hit !== hit) return;
      this.dialog.querySelector(".facts.more")?.replaceWith(facts({ ...known, ...hit, bytes: known.bytes }));
    } catch {
      // what the hit tells is shown already
    }
  }

  panel(hit, originals) {
    const name = nameOf(hit);
    const close = button("close", t("close"), () => this.act.close(), { label: true, class: "tool", id: "viewer-close" });
    const copied = async (text) => {
      this.act.tell(t((await copy(text, this.dialog)) ? "copied" : "notCopied"));
    };
    const file = originals
      ? make("a", { class: "pill", href: original(hit.id), download: name, title: t("downloadWhy") },
        icon("download"), make("span", {}, t("download")))
      : null;
    const folder = (hit.paths[0] || "").split("/").slice(0, -1).join("/");
    return make("div", { class: "panel" },
      make("div", { class: "head" },
        make("div", {},
          make("h2", { id: "viewer-name" }, name),
          folder ? make("p", { class: "faint" }, folder) : null),
        close),
      make("div", { class: "actions" },
        button("like", t("more"), () => this.act.like(hit), { class: "pill strong", id: "viewer-like" }),
        file,
        button("link", t("copyLink"), () => copied(location.href), { class: "pill", id: "viewer-link" }),
        button("copy", t("copyName"), () => copied(name), { class: "pill", id: "viewer-copy" })),
      hit.captions.length ? captions(hit) : null,
      hit.asked ? sureness(hit) : null,
      facts(hit),
      hit.similar?.length ? this.strip(hit) : null);
  }

  strip(hit) {
    const shown = hit.similar.slice(0, 24).map((id, at) => make("li", {},
      make("button", { type: "button", "aria-label": `${t("similar", { count: hit.similar.length })}: ${at + 1}`, onclick: () => this.act.visit(id) },
        make("img", { src: thumbnail(id), alt: "", loading: "lazy" }))));
    return make("section", { class: "strip" },
      make("h3", {}, t("similar", { count: hit.similar.length })), make("ul", {}, ...shown));
  }
}

function captions(hit) {
  return make("section", {}, make("h3", {}, t("captions")),
    make("ul", { class: "captions" },
      ...hit.captions.map((text) => make("li", { lang: languageOf(text) }, text))));
}

function sureness(hit) {
  const known = typeof hit.confidence === "number";
  return make("dl", { class: "facts" },
    ...(known ? pair(t("confidence"), make("span", { class: "sure" },
      make("meter", { min: 0, max: 1, value: hit.confidence, "aria-label": t("confidence") }),
      `${Math.round(100 * hit.confidence)} %`)) : []),
    ...pair(t("score"), hit.score.toFixed(3)));
}

function facts(hit) {
  const size = hit.width ? `${hit.width} × ${hit.height}` : "";
  const weight = hit.bytes ? bytes(hit.bytes) : "";
  return make("dl", { class: "facts more" },
    ...pair(t("size"), [size, weight].filter(Boolean).join(" · ")),
    ...pair(t("takenOn"), hit.taken && moment(hit.taken, true)),
    ...pair(t("addedOn"), hit.added && moment(hit.added)),
    ...pair(t("ownId"), hit.own_id),
    ...pair(t("alsoAt"), hit.paths.slice(1).join("\n")));
}

const pair = (name, value) => (value ? [make("dt", {}, name), make("dd", {}, value)] : []);

function bytes(count) {
  if (count < 1e3) return `${count} B`;
  return count < 1e6 ? `${number(Math.round(count / 1e3))} kB` : `${(count / 1e6).toFixed(1)} MB`;
}
