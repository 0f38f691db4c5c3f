// The page: keeps the query, asks the service, and tells the parts what to show.

import { aborted, Failure, get, ready, search } from "./api.js";
import * as box from "./box.js";
import { by, icon, keep, kept, make } from "./dom.js";
import * as filters from "./filters.js";
import { Grid } from "./grid.js";
import { whyEmpty } from "./library.js";
import { Notices } from "./notices.js";
import { bring, listenForDrops, listenForPastes, taken } from "./pictures.js";
import { asks, body, browsing, form, nothing, onlyExcludes, read, same, write } from "./query.js";
import { About } from "./release.js";
import { offerSpeech } from "./speech.js";
import { askForToken, carriesToken, tokenOfAddress } from "./token.js";
import { Viewer } from "./viewer.js";
import {
  chooseLanguage, language, languageOf, number, small, switchLanguage, t, write as writeTexts,
} from "./words.js";

const NEAR_THE_END = "1500px";

let query = nothing();
let typing = false; // the last change came from typing: the address is replaced, not added to
let running = null; // the request for the first page, until it is answered
let paging = null; // the same for a further page
let page = null; // {query, searching, release, after, withheld, total, without} of what is shown

// --- the query and the address -------------------------------------------------------------------

/** Change the query, its address, and what is shown. */
function go(change, { replace = false } = {}) {
  const next = { ...query, ...change };
  const address = write(next);
  if (address !== location.hash) {
    const state = { opened: Boolean(next.open) && !replace };
    if (replace) history.replaceState({ ...history.state }, "", address);
    else history.pushState(state, "", address);
  }
  follow(next);
}

/** Show a query that the address holds already. */
function follow(next) {
  const anew = !page || !same(next, query);
  const written = next.text !== query.text;
  query = next;
  box.show(query);
  describe();
  if (anew) run();
  if (written && onlyExcludes(query)) notices.say(by("excluded").textContent);
  showLarge();
}

const again = () => run();

function typed(text) {
  go({ text: text.trim(), all: false }, { replace: typing });
  typing = true;
}

function asked(text) {
  typing = false;
  if (text.trim() === query.text) again();
  else go({ text: text.trim(), all: false });
}

/** Any change that is not typing. */
function choose(change) {
  typing = false;
  go({ all: false, ...change });
}

async function brought(file) {
  if (!file) {
    notices.show("noPicture", "noPictureWhy");
    return;
  }
  choose({ picture: await bring(file), like: "", open: "" });
  scrollTo({ top: 0 });
}

function like(hit) {
  choose({ like: hit.id, picture: "", text: "", open: "" });
  scrollTo({ top: 0 });
  by("main").focus({ preventScroll: true });
}

// --- asking ---------------------------------------------------------------------------------------

function ask(after, signal) {
  if (!asks(query)) return get(browsing(query, after), signal);
  if (!query.picture) return search(body(query, after), signal);
  const picture = taken(query.picture);
  if (!picture) throw new Failure("refused", t("pictureGone"));
  return search(form(query, picture.file, after), signal);
}

/** Ask for the first page of the query. */
async function run() {
  running?.abort();
  paging?.abort();
  paging = null;
  const own = new AbortController();
  running = own;
  const was = query;
  document.body.classList.add("searching");
  try {
    const answer = await ask("", own.signal);
    if (running !== own) return;
    running = null;
    showFirst(answer, was);
  } catch (error) {
    if (aborted(error) || running !== own) return;
    running = null;
    failed(error, again);
  } finally {
    if (!running) document.body.classList.remove("searching");
  }
}

/** Ask for the next page, once it is needed. */
async function more() {
  if (!page?.after || paging || running || !same(page.query, query)) return;
  const own = new AbortController();
  paging = own;
  try {
    const answer = await ask(page.after, own.signal);
    if (paging !== own) return;
    paging = null;
    page = { ...page, after: answer.after, withheld: page.withheld + (answer.withheld || 0) };
    grid.add(answer.hits.map(known), !page.after);
    describe();
    notices.say(t("saidMore", { count: number(grid.hits.length) }));
    if (grid.hits.length) requestAnimationFrame(() => nearTheEnd && more());
    showLarge();
  } catch (error) {
    if (aborted(error) || paging !== own) return;
    paging = null;
    if (error.kind === "changed") {
      notices.tell(t("changed"));
      again();
    } else failed(error, more);
  }
}

/** A hit of a search, not of browsing: its score says something. */
const known = (hit) => ({ ...hit, asked: page.searching });

function failed(error, retry) {
  if (!(error instanceof Failure)) throw error;
  if (error.kind === "token") {
    askForToken(() => { about.learn(); retry(); });
  } else if (["gone", "busy", "unready"].includes(error.kind)) {
    if (error.kind === "unready") grid.show([], true);
    notices.recover(error, ready, () => {
      if (error.kind !== "busy") about.learn(); // where little may be asked, it is what was wanted
      retry();
    });
  } else {
    page = null;
    grid.show([], true);
    notices.show(error.kind === "large" ? "tooLarge" : "failed", error.message);
    describe();
  }
}

// --- showing --------------------------------------------------------------------------------------

function showFirst(answer, was) {
  const searching = asks(was);
  page = {
    query: was,
    searching,
    release: answer.release,
    total: answer.total,
    after: answer.after || "",
    withheld: answer.withheld || 0,
    without: answer.understood?.negative || [],
  };
  if (about.release && about.release.release !== answer.release) about.learn();
  grid.show(answer.hits.map(known), !page.after);
  notices.clear(); // behind the pictures: a button that goes leaves the keyboard to them
  if (scrollY > by("grid").offsetTop) scrollTo({ top: 0, behavior: "instant" });
  describe();
  if (searching) sayFound();
  showLarge();
  if (nearTheEnd) more();
}

function sayFound() {
  const count = grid.hits.length;
  if (!count) notices.say(t("nothing"));
  else if (page.after) notices.say(t("saidFoundMore", { count: number(count), total: number(page.total) }));
  else notices.say(count === 1 ? t("found_one") : t("saidFound", { count: number(count) }));
}

/** All that stands around the pictures. */
function describe() {
  filters.chips(query, page?.without || [], narrow);
  const parts = {
    text: Boolean(query.text && (query.picture || query.like)),
    picture: Boolean(query.text && (query.picture || query.like)),
    negative: Boolean(page?.without.length),
  };
  if (JSON.stringify(parts) !== drawn && !by("filters").hidden) drawFilters(parts);
  drawn = JSON.stringify(parts);
  by("count").textContent = count();
  by("excluded").hidden = !onlyExcludes(query);
  by("excluded").textContent = t("onlyExcluded", { what: query.text.trim() });
  by("intro").hidden = asks(query) || filtered() || !page || page.searching || empty();
  if (!by("intro").hidden) introduce();
  ending();
}

/** Other filters, chosen elsewhere than in the form. */
function narrow(held) {
  choose({ filters: held, all: query.all });
  if (!by("filters").hidden) drawFilters();
}

const filtered = () => Object.values(query.filters).some(Boolean);

let drawn = ""; // for which parts of a query the form has sliders

function drawFilters(parts = JSON.parse(drawn)) {
  filters.draw(query, parts, {
    filter: (name, value) => choose({ filters: { ...query.filters, [name]: value }, all: query.all }),
    weight: (name, value) => go({ weights: { ...query.weights, [name]: value } }, { replace: true }),
  });
}

function count() {
  if (!page || !grid.hits.length) return "";
  const shown = grid.hits.length;
  if (!page.searching) return t("found", { count: number(page.total) });
  if (page.after) return t("foundMore", { total: number(page.total) });
  return shown === 1 ? t("found_one") : t("found", { count: number(shown) });
}

/** Nothing typed yet: a question, and words that are known to lead somewhere. */
function introduce() {
  const texts = [...new Set(grid.hits.flatMap((hit) => hit.captions.slice(0, 1)))]
    .filter((text) => text.length <= 24).slice(0, 4);
  const tries = texts.map((text) => make("li", {}, make("button", {
    type: "button", class: "pill", lang: languageOf(text), onclick: () => asked(text),
  }, text)));
  by("intro").replaceChildren(
    make("p", { class: "welcome" }, t("welcome")),
    ...(tries.length ? [make("ul", { class: "tries", "aria-label": t("try") }, ...tries)] : []),
    make("p", { class: "faint" }, t(small.matches ? "hint_touch" : "hint")));
}

/** Is there nothing at all to be found? */
const empty = () => Boolean(page && !page.total && !filtered());

/** Below the pictures: nothing found, or what else there would be. It is about what is shown, not
 * about a query that is still under way. */
function ending() {
  if (!page || notices.pending || !same(page.query, query)) return;
  if (page.after) notices.end();
  else if (grid.hits.length) {
    notices.end(page.withheld && !query.all && ["further", () => choose({ all: true })]);
  } else if (page.withheld) {
    notices.nothing("nothingWhy", ["nearest", () => choose({ all: true })]);
  } else if (filtered()) {
    notices.nothing("nothingFiltered", ["resetFilters", () => narrow({})]);
  } else if (empty()) {
    notices.empty(whyEmpty(about.release?.library));
  } else notices.nothing("nothingWhy");
}

// --- large ----------------------------------------------------------------------------------------

let visited = null; // a picture that is open and is none of the hits

async function showLarge() {
  const id = query.open;
  if (!id) {
    const before = viewer.hit;
    viewer.hide();
    const index = before ? grid.hits.findIndex((hit) => hit.id === before.id) : -1;
    if (index >= 0) grid.focus(index);
    return;
  }
  const index = grid.hits.findIndex((hit) => hit.id === id);
  let hit = grid.hits[index];
  if (!hit && visited?.id === id) hit = visited;
  if (!hit) {
    if (running) return; // it may be among the hits
    try {
      hit = visited = { ...(await get(`pictures/${id}`)), similar: [], asked: false };
    } catch (error) {
      go({ open: "" }, { replace: true });
      if (error.kind === "refused") notices.tell(error.message);
      else failed(error, () => go({ open: id }, { replace: true }));
      return;
    }
    if (query.open !== id) return;
  }
  const at = { before: index > 0, after: index >= 0 && index + 1 < grid.hits.length };
  viewer.show(hit, at, Boolean(about.release?.originals));
  if (index >= 0 && index + 6 > grid.hits.length) more();
}

function step(by_) {
  const index = grid.hits.findIndex((hit) => hit.id === query.open);
  const next = index >= 0 && grid.hits[index + by_];
  if (next) go({ open: next.id }, { replace: true });
}

function closeLarge() {
  if (history.state?.opened) history.back();
  else go({ open: "" }, { replace: true });
}

const open = (id) => { typing = false; go({ open: id }, { replace: Boolean(query.open) }); };

// --- the parts ------------------------------------------------------------------------------------

const notices = new Notices({
  left: () => {
    if (grid.hits.length) grid.focus(grid.current);
    else by("main").focus({ preventScroll: true });
  },
});
const about = new About({
  learned: () => { if (empty() && !running) ending(); },
  changed: () => {
    filters.forgetFolders();
    learnFolders();
    showLarge();
    const waits = page && !grid.hits.length && !running && !notices.pending;
    if (waits && page.release !== about.release.release) again(); // there may be pictures now
  },
});
const grid = new Grid(by("grid"), {
  open: (index) => open(grid.hits[index].id),
  like,
  address: (hit) => write({ ...query, open: hit.id }),
});
const viewer = new Viewer(by("viewer"), {
  close: closeLarge, step, like, visit: open, tell: (text) => notices.tell(text),
});

let nearTheEnd = false;
new IntersectionObserver(([entry]) => {
  nearTheEnd = entry.isIntersecting;
  if (nearTheEnd) more();
}, { rootMargin: NEAR_THE_END }).observe(by("end"));

// --- settings -------------------------------------------------------------------------------------

const THEMES = ["auto", "light", "dark"];
const theme = () => document.documentElement.dataset.theme || "auto";

function drawSettings() {
  by("language").replaceChildren(t("switchLanguageShort"));
  by("language").lang = language() === "zh" ? "en" : "zh-CN";
  by("theme").replaceChildren(icon(theme()));
  by("theme").title = t(`theme_${theme()}`);
  by("theme").setAttribute("aria-label", by("theme").title);
}

function nextTheme() {
  const next = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];
  if (next === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  keep("theme", next);
  drawSettings();
  notices.say(t(`theme_${next}`));
}

function otherLanguage() {
  switchLanguage();
  drawSettings();
  about.draw();
  const { pending } = notices;
  notices.clear();
  grid.show(grid.hits, grid.ended);
  describe();
  if (pending) notices.retell(pending);
  else if (!page && !running) again(); // what the service refused, it says in this language
  if (!by("filters").hidden) drawFilters();
  offerSpeech(asked);
}

async function toggleFilters() {
  const section = by("filters");
  section.hidden = !section.hidden;
  by("refine").setAttribute("aria-expanded", String(!section.hidden));
  if (section.hidden) return;
  drawFilters();
  await learnFolders();
}

/** The folders to choose from, if they can be seen; not under the hands of who fills in the form. */
async function learnFolders() {
  const section = by("filters");
  if (section.hidden) return;
  await filters.learnFolders();
  if (!section.hidden && !section.contains(document.activeElement)) drawFilters();
}

function listen() {
  box.listen({ typed, asked, brought, unbrought: () => choose({ picture: "", like: "" }) });
  listenForDrops((over) => { by("drop").hidden = !over; }, brought);
  listenForPastes(brought);
  by("refine").addEventListener("click", toggleFilters);
  by("language").addEventListener("click", otherLanguage);
  small.addEventListener("change", () => { writeTexts(document); describe(); });
  by("theme").addEventListener("click", nextTheme);
  by("skip").addEventListener("click", () => {
    if (grid.hits.length) grid.focus(grid.current);
    else by("main").focus();
  });
  by("home").addEventListener("click", (event) => {
    event.preventDefault();
    typing = false;
    go(nothing());
    scrollTo({ top: 0 });
  });
  addEventListener("popstate", async () => {
    typing = false;
    if (carriesToken()) await arrive(); // another link was opened in this tab
    follow(read(location.hash));
    if (!by("filters").hidden) drawFilters();
  });
  addEventListener("keydown", (event) => {
    const writing = event.target.closest("input, textarea, select, dialog");
    if (event.key !== "/" || writing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    by("text").focus();
    by("text").select();
  });
  by("text").addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown" || event.isComposing || !grid.hits.length) return;
    event.preventDefault();
    grid.focus(grid.current);
  });
}

/** Come by an address with a token. */
async function arrive() {
  const refused = await tokenOfAddress();
  if (refused instanceof Failure) failed(refused, () => follow(read(location.hash)));
  about.learn();
}

async function start() {
  for (const each of document.querySelectorAll("[data-icon]")) each.append(icon(each.dataset.icon));
  chooseLanguage();
  drawSettings();
  listen();
  offerSpeech(asked);
  await arrive();
  follow(read(location.hash));
  if (!query.open && matchMedia("(pointer: fine)").matches) by("text").focus();
}

start();
