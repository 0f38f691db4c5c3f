// What the page has to say besides pictures: nothing found, what failed, and that it goes on.

import { by, make } from "./dom.js";
import { t } from "./words.js";

const LONGEST = 30;
const TOAST = 2500;

export class Notices {
  constructor() {
    this.timer = 0;
    this.toast = 0;
    this.pause = 1;
  }

  /** Read out, and nothing else. */
  say(text) {
    by("say").textContent = text;
  }

  /** A word that goes away by itself. A dialog that is open would cover it: so it stands inside. */
  tell(text) {
    const toast = by("toast");
    (document.querySelector("dialog[open]") || document.body).append(toast);
    toast.textContent = text;
    toast.hidden = false;
    this.say(text);
    clearTimeout(this.toast);
    this.toast = setTimeout(() => { toast.hidden = true; }, TOAST);
  }

  /** All is well again. */
  clear() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.pause = 1;
    by("banner").hidden = true;
    by("notice").hidden = true;
  }

  /** Something failed for good: a title, and a sentence of ours (a key) or of the service. */
  show(title, why) {
    const said = ["noPictureWhy", "unreadyWhy"].includes(why) ? t(why) : why;
    this.fill(make("h2", {}, t(title)), make("p", {}, said));
    this.say(`${t(title)}: ${said}`);
  }

  /** Nothing found. */
  nothing(why, action) {
    this.fill(make("h2", {}, t("nothing")), make("p", {}, t(why)), this.action(action, "pill strong"));
  }

  /** Below the last picture. */
  end(action) {
    if (action) this.fill(this.action(action, "pill"));
    else by("notice").hidden = true;
  }

  action(action, style) {
    if (!action) return null;
    const [key, act] = action;
    return make("button", { type: "button", class: style, onclick: act }, t(key));
  }

  fill(...children) {
    by("notice").replaceChildren(...children.filter(Boolean));
    by("notice").hidden = false;
  }

  /** Say what is wrong, try again with growing pauses, and go on when it is over. */
  recover(error, ready, act) {
    clearTimeout(this.timer);
    if (error.kind === "unready") this.show("unready", "unreadyWhy");
    const why = { gone: t("gone"), busy: error.message || t("busy"), unready: t("unready") }[error.kind];
    const said = make("span", {}, why);
    const when = make("span", { class: "when", "aria-live": "off" });
    const now = make("button", { type: "button", class: "quiet" }, t("retryNow"));
    by("banner").replaceChildren(said, when, now);
    by("banner").hidden = error.kind === "unready";
    const attempt = async () => {
      clearTimeout(this.timer);
      when.textContent = t("retrying");
      try {
        if (error.kind !== "busy" && !(await ready())) throw new Error("not yet");
        const lost = error.kind === "gone";
        by("banner").hidden = true;
        if (lost) this.tell(t("back"));
        act();
      } catch {
        this.pause = Math.min(2 * this.pause, LONGEST);
        count(error.kind === "unready" ? 3 : this.pause);
      }
    };
    const count = (seconds) => {
      when.textContent = t("retryIn", { seconds });
      this.timer = setTimeout(() => (seconds > 1 ? count(seconds - 1) : attempt()), 1000);
    };
    now.addEventListener("click", attempt);
    count(Math.max(error.wait, error.kind === "gone" ? this.pause : 1));
  }
}
