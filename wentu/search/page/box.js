// The field one types into, and the picture beside the words.

import { thumbnail } from "./api.js";
import { by, later } from "./dom.js";
import { taken } from "./pictures.js";
import { t } from "./words.js";

const PAUSE = 220;

/** Tell `act.typed(text)` when typing pauses, `act.asked(text)` on Enter. While an input method
 * composes, nothing is told: what stands there then are letters of a sound, not words. */
export function listen(act) {
  const field = by("text");
  let composing = false;
  const typed = later(() => act.typed(field.value), PAUSE);
  const changed = () => {
    by("clear").hidden = !field.value;
    if (!composing) typed();
  };
  field.addEventListener("compositionstart", () => {
    composing = true;
    typed.cancel();
  });
  field.addEventListener("compositionend", () => {
    composing = false;
    changed();
  });
  field.addEventListener("input", (event) => {
    if (!event.isComposing) changed();
  });
  by("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (composing) return;
    typed.cancel();
    act.asked(field.value);
  });
  by("clear").addEventListener("click", () => {
    typed.cancel();
    field.value = "";
    by("clear").hidden = true;
    field.focus();
    act.asked("");
  });
  by("choose").addEventListener("click", () => by("file").click());
  by("file").addEventListener("change", () => {
    const [file] = by("file").files;
    by("file").value = "";
    if (file) act.brought(file);
  });
  by("sample-remove").addEventListener("click", () => {
    field.focus();
    act.unbrought();
  });
}

/** Show what a query says. */
export function show(query) {
  const field = by("text");
  if (field.value !== query.text && !(document.activeElement === field && field.value.trim() === query.text)) {
    field.value = query.text;
  }
  by("clear").hidden = !field.value;
  const source = query.picture ? taken(query.picture)?.url : query.like && thumbnail(query.like);
  by("sample").hidden = !source;
  const picture = by("sample-picture");
  if (source && picture.getAttribute("src") !== source) picture.src = source;
  picture.alt = query.picture ? t("yourPicture") : "";
}
