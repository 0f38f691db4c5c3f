// What is searched for: a plain value, how it stands in the address, and how it is asked.

export const FILTERS = [
  "folder", "name", "taken_from", "taken_to", "added_from", "added_to",
  "captioned", "min_side", "max_side",
];
export const WEIGHTS = { text: 1, picture: 1, negative: 0.5 };
const PAGE = 60;

/** A query for nothing. `like`: a picture of the collection; `picture`: the number of one that was
 * brought along (see pictures.js); `open`: the picture that is shown large. */
export const nothing = () => ({
  text: "", like: "", picture: "", filters: {}, weights: {}, all: false, open: "",
});

/** Nothing but words to leave out, as wentu/search/syntax.py reads them, or the sign of the first. */
const ONLY_EXCLUDES = /^(?:\s*[-\u2212\uff0d](?![-\u2212\uff0d])(?:"[^"]+"|\u201c[^\u201d]+\u201d|\uff02[^\uff02]+\uff02|\S*)(?=\s|$))+\s*$/u;

/** Does a query only say what not to look for? */
export const onlyExcludes = (query) => !query.like && !query.picture && ONLY_EXCLUDES.test(query.text);

/** Is there something to be searched for? */
export const asks = (query) => (
  Boolean(query.text.trim() || query.like || query.picture) && !onlyExcludes(query));

/** The query that an address holds behind its "#". There it stays in the browser: what people look
 * for gets into no log on the way. */
export function read(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const query = nothing();
  query.text = given.get("q") || "";
  for (const name of ["like", "picture", "open"]) {
    const value = given.get(name) || "";
    if (/^\d{1,19}$/.test(value)) query[name] = value;
  }
  query.all = given.get("all") === "1";
  for (const name of FILTERS) if (given.get(name)) query.filters[name] = given.get(name);
  for (const name of Object.keys(WEIGHTS)) {
    const value = Number.parseFloat(given.get(`${name}_weight`));
    if (value >= 0 && value <= 100) query.weights[name] = value;
  }
  return query;
}

/** The address of a query, from "#" on. */
export function write(query) {
  const out = new URLSearchParams();
  if (query.text) out.set("q", query.text);
  for (const name of ["like", "picture"]) if (query[name]) out.set(name, query[name]);
  for (const name of FILTERS) if (query.filters[name]) out.set(name, query.filters[name]);
  for (const name of Object.keys(WEIGHTS)) {
    const value = query.weights[name];
    if (value !== undefined && value !== WEIGHTS[name]) out.set(`${name}_weight`, value);
  }
  if (query.all) out.set("all", "1");
  if (query.open) out.set("open", query.open);
  return `#${out}`;
}

/** The same search? What is shown large does not matter, and a text that asks nothing is none. */
export const same = (a, b) => wanted(a) === wanted(b);
const wanted = (query) => write({ ...query, open: "", text: asks(query) ? query.text : "" });

/** The weight of a part, as chosen or as usual. */
export const weight = (query, name) => query.weights[name] ?? WEIGHTS[name];

/** Filters as the service takes them: numbers and truth values, no texts; only what is on. */
export function filters(query) {
  const out = Object.fromEntries(Object.entries(query.filters).filter(([, value]) => value));
  if (out.captioned) out.captioned = out.captioned === "true";
  for (const name of ["min_side", "max_side"]) if (out[name]) out[name] = Number(out[name]);
  return out;
}

/** The body of POST /search; `after`: behind what the next page begins. */
export function body(query, after) {
  const weights = {
    text: weight(query, "text"),
    id: weight(query, "picture"),
    negative: weight(query, "negative"),
  };
  const out = { text: query.text, weights, k: PAGE };
  const held = filters(query);
  if (Object.keys(held).length) out.filters = held;
  if (query.all) out.all = true;
  if (query.like) out.id = query.like;
  if (after) out.after = after;
  return out;
}

/** The address of a page of all pictures that pass the filters. */
export function browsing(query, after) {
  const out = new URLSearchParams({ k: PAGE, ...filters(query) });
  if (after) out.set("after", after);
  return `browse?${out}`;
}

/** The form of POST /search/picture, which is flat. */
export function form(query, file, after) {
  const out = new FormData();
  const { weights, filters: held = {}, ...rest } = body(query, after);
  out.set("text", rest.text);
  out.set("k", rest.k);
  if (rest.all) out.set("all", "true");
  if (after) out.set("after", after);
  out.set("text_weight", weights.text);
  out.set("picture_weight", weights.id);
  out.set("negative_weight", weights.negative);
  for (const [name, value] of Object.entries(held)) out.set(name, String(value));
  out.set("picture", file, "picture");
  return out;
}
