// What the page has to say besides pictures: nothing found, what failed, and that it goes on.

import { Failure } from "./api.js";
import { by, make } from "./dom.js";
import { t } from "./words.js";

const LONGEST = 30;
const TOAST = 2500;

/** `act.left()`: the button that had the keyboard is gone, and no other stands in its place. */
export class Notices {
  constructor(act) {
    this.act = act;
    this.timer = 0;
    this.toast = 0;
    this.pause = 1;
    this.pending = null; // {error, ready, act} of what is tried again
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
    this.pending = null;
    by("banner").hidden = true;
    this.hide();
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

  /** Nothing there to be found; `why` is a sentence. */
  empty(why) {
    this.fill(make("h2", {}, t("unready")), make("p", {}, why));
  }

  /** Below the last picture. */
  end(action) {
    if (action) this.fill(this.action(action, "pill"));
    else this.hide();
  }

  action(action, style) {
    if (!action) return null;
    const [key, act] = action;
    return make("button", { type: "button", class: style, onclick: act }, t(key));
  }

  fill(...children) {
    const notice = by("notice");
    const held = notice.contains(document.activeElement);
    notice.replaceChildren(...children.filter(Boolean));
    notice.hidden = false;
    if (!held) return;
    const button = notice.querySelector("button");
    if (button) button.focus({ preventScroll: true });
    else this.act.left();
  }

  hide() {
    const held = by("notice").contains(document.activeElement);
    by("notice").hidden = true;
    if (held) this.act.left();
  }

  /** Say what is wrong, try again with growing pauses, and go on when it is over. */
  recover(error, ready, act) {
    clearTimeout(this.timer);
    const own = { error, ready, act };
    this.pending = own;
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
        if (this.pending !== own) return; // it went on otherwise meanwhile
        this.pending = null;
        const lost = error.kind === "gone";
        by("banner").hidden = true;
        this.pause = Math.min(2 * this.pause, LONGEST); // if it fails again, it is not well yet
        if (lost) this.tell(t("back"));
        act();
      } catch {
        if (this.pending !== own) return;
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

  /** Say again, in another language, what is tried again. */
  retell({ error, ready, act }) {
    this.recover(new Failure(error.kind, "", error.wait), ready, act);
  }
}
