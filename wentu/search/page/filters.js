// What narrows a search, and how much its parts count: the form, and a chip for each that is on.

import { get } from "./api.js";
import { by, icon, later, make } from "./dom.js";
import { FILTERS, WEIGHTS, weight } from "./query.js";
import { number, t } from "./words.js";

const TYPING = 400;
let folders = null; // of the collection, once they were asked for

/** The folders to choose from; none where the service does not know them. */
export async function learnFolders() {
  if (folders) return;
  try {
    const answer = await get("folders");
    folders = Array.isArray(answer) ? answer : answer.folders;
  } catch {
    folders = null; // asked for again when the form is opened next
  }
}

/** Forget the folders: another release may have others. */
export const forgetFolders = () => { folders = null; };

/** Draw the form for a query; `act.filter(name, value)` and `act.weight(name, value)` are told. */
export function draw(query, parts, act) {
  const section = by("filters");
  const held = section.contains(document.activeElement) ? document.activeElement.name : "";
  const set = (name) => (value) => act.filter(name, value);
  const field = (name, input) => make("label", { class: "field" }, make("span", {}, t(name)), input);
  const typed = (name, given) => {
    const told = later(set(name), TYPING);
    return make("input", {
      name, value: query.filters[name] || "", ...given,
      oninput: (event) => { if (event.target.validity.valid && !event.isComposing) told(event.target.value); },
      oncompositionend: (event) => told(event.target.value),
    });
  };
  const range = (name) => make("fieldset", { class: "field" }, make("legend", {}, t(name)),
    ...["from", "to"].map((end) => make("input", {
      type: "date", name: `${name}_${end}`, value: query.filters[`${name}_${end}`] || "",
      "aria-label": `${t(name)} ${t(end)}`,
      onchange: (event) => set(`${name}_${end}`)(event.target.value),
    })));
  section.replaceChildren(
    field("folder", select("folder", folderChoices(query), query, set("folder"))),
    field("name", typed("name", { type: "text", maxlength: 200, autocomplete: "off", spellcheck: "false" })),
    range("taken"),
    range("added"),
    field("captioned", select("captioned", [
      ["", t("either")], ["true", t("captioned_true")], ["false", t("captioned_false")],
    ], query, set("captioned"))),
    field("min_side", typed("min_side", { type: "number", min: 1, max: 100000, step: 1, inputmode: "numeric" })),
    field("max_side", typed("max_side", { type: "number", min: 1, max: 100000, step: 1, inputmode: "numeric" })),
    ...sliders(query, parts, act),
  );
  if (held) section.querySelector(`[name="${held}"]`)?.focus();
}

function select(name, choices, query, act) {
  const chosen = query.filters[name] || "";
  return make("select", { name, onchange: (event) => act(event.target.value) },
    ...choices.map(([value, text]) => make("option", { value, selected: value === chosen }, text)));
}

function folderChoices(query) {
  const known = (folders || []).map((each) => {
    const depth = each.folder.split("/").length - 1;
    return [each.folder, `${"\u2003".repeat(depth)}${each.folder.split("/").pop()}  (${number(each.pictures)})`];
  });
  const chosen = query.filters.folder;
  if (chosen && !known.some(([value]) => value === chosen)) known.push([chosen, chosen]);
  return [["", t("everywhere")], ...known];
}

/** How much each part counts, where there are several. */
function sliders(query, parts, act) {
  const told = later(act.weight, 120);
  return Object.keys(WEIGHTS).filter((name) => parts[name]).map((name) => {
    const value = weight(query, name);
    const said = make("output", {}, value.toFixed(2));
    return make("label", { class: "field slider" },
      make("span", {}, `${t("weights")} · ${t(`weight_${name}`)} `, said),
      make("input", {
        type: "range", name: `weight_${name}`, min: 0, max: 2, step: 0.05, value,
        oninput: (event) => {
          said.value = Number(event.target.value).toFixed(2);
          told(name, Number(event.target.value));
        },
      }));
  });
}

/** A chip for each filter that is on, and for each text that is left out. The keyboard stays at the
 * chip it is at; from one that is gone it goes to the next one, from the last to the filters. */
export function chips(query, without, act) {
  const list = by("chips");
  const before = [...list.querySelectorAll("button")];
  const at = before.indexOf(document.activeElement);
  const on = FILTERS.filter((name) => query.filters[name]);
  const removable = on.map((name) => {
    const value = query.filters[name];
    const text = name === "captioned" ? t(`captioned_${value}`) : t(`chip_${name}`, { value });
    return make("li", {}, make("button", {
      type: "button", class: "pill on", "data-name": name, "aria-label": t("remove", { what: text }),
      onclick: () => act({ ...query.filters, [name]: "" }),
    }, make("span", {}, text), icon("close")));
  });
  const told = without.map((what) => make("li", {},
    make("span", { class: "pill said" }, t("without", { what }))));
  list.replaceChildren(...told, ...removable);
  list.hidden = !list.childElementCount;
  if (on.length > 1) {
    list.append(make("li", {}, make("button", { type: "button", class: "quiet", onclick: () => act({}) },
      t("resetFilters"))));
  }
  if (at < 0) return;
  const after = [...list.querySelectorAll("button")];
  const { name } = before[at].dataset;
  const next = after.find((each) => each.dataset.name === name) || after[at] || after.at(-1);
  (next || by("refine")).focus({ preventScroll: true });
}
