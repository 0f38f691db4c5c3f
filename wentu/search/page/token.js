// Who may search: a token from the address, or asked for once; a cookie stands for it afterwards.

import { enter, Failure } from "./api.js";
import { by, make } from "./dom.js";
import { t } from "./words.js";

const inAddress = () => new URLSearchParams(location.hash.replace(/^#/, ""));

export const carriesToken = () => inAddress().has("token");

/** Trade a token behind "#" in the address, which no server ever sees, for a cookie; take it out of
 * the address. The failure where that did not work. */
export async function tokenOfAddress() {
  const given = inAddress();
  const token = given.get("token");
  if (!token) return null;
  given.delete("token");
  history.replaceState(null, "", `#${given}`);
  try {
    await enter(token);
    by("token").close();
    return null;
  } catch (error) {
    return error;
  }
}

/** Ask for the token until it is right; then go on. */
export function askForToken(act) {
  const dialog = by("token");
  if (dialog.open) return;
  const field = make("input", {
    id: "token-text", type: "password", autocomplete: "current-password", required: true,
    "aria-describedby": "token-wrong", spellcheck: "false",
  });
  const wrong = make("p", { id: "token-wrong", class: "wrong", role: "alert" });
  const send = async (event) => {
    event.preventDefault();
    wrong.textContent = "";
    try {
      await enter(field.value.trim());
      dialog.close();
      act();
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      wrong.textContent = error.kind === "token" ? t("tokenWrong") : error.message || t("gone");
      field.select();
    }
  };
  dialog.replaceChildren(make("form", { onsubmit: send },
    make("h2", { id: "token-title" }, t("tokenTitle")),
    make("label", { class: "field" }, make("span", {}, t("token")), field),
    wrong,
    make("p", { class: "faint" }, t("tokenWhy")),
    make("button", { type: "submit", class: "pill strong" }, t("enter"))));
  dialog.oncancel = (event) => event.preventDefault();
  dialog.showModal();
  field.focus();
}
