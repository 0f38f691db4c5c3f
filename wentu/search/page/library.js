// A folder that is followed (`wentu serve --library`): how far indexing is, and what is wrong.

import { by } from "./dom.js";
import { number, t } from "./words.js";

const WRONG = { away: "library_away", failing: "library_failing", stopped: "library_stopped" };

/** Is there something to wait for: pictures to come, or a folder to be back? */
export const hurries = (release) => (
  !release.pictures || Boolean(release.library && release.library.state !== "following"));

/** How it stands, in a sentence of the page's language; that of the service where it knows a state
 * that the page does not. "" where no folder is followed. */
export function told(library) {
  if (!library) return "";
  const { state, indexed, waiting, problem } = library;
  if (state === "indexing" && waiting) {
    return t("library_indexing", { indexed: number(indexed), all: number(indexed + waiting) });
  }
  if (state === "indexing") return t("library_reading");
  if (state === "following") return t("library_following");
  return WRONG[state] ? t(WRONG[state]) : problem;
}

/** What is wrong, as `told`; "" where all is well. */
const wrong = (library) => (
  WRONG[library?.state] || library?.problem ? told(library) : "");

/** Why there is nothing yet. */
export const whyEmpty = (library) => (
  wrong(library) || t(library?.state === "indexing" ? "emptyIndexing" : "empty"));

/** A line above the pictures, while there is something to say. A start looks the folder through for
 * a moment: that is not worth a line, unless there is nothing else. */
export function draw(library) {
  const line = by("library");
  const indexing = library?.state === "indexing" && (library.waiting || !library.indexed);
  line.hidden = !indexing && !wrong(library);
  line.classList.toggle("problem", Boolean(wrong(library)));
  line.role = wrong(library) ? "alert" : null; // how far it is would be read out without end
  if (!line.hidden && line.textContent !== told(library)) line.textContent = told(library);
}
