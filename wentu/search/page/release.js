// Which release is searched: a few words above the pictures, and more behind them.

import { get } from "./api.js";
import { by, make } from "./dom.js";
import * as library from "./library.js";
import { moment, number, t } from "./words.js";

const OFTEN = 30_000;
const OFTENER = 3_000; // while there is something to wait for

/** What is searched. `act.changed()` is told when another release begins to be served,
 * `act.learned()` whenever it was asked for. */
export class About {
  constructor(act) {
    this.release = null;
    this.act = act;
    this.soon();
  }

  /** Ask again after a while. */
  soon() {
    clearTimeout(this.timer);
    const pause = this.release && library.hurries(this.release) ? OFTENER : OFTEN;
    this.timer = setTimeout(() => {
      if (document.hidden || !this.release) this.soon();
      else this.learn();
    }, pause);
  }

  /** Ask which release is served; whoever searches hears of failures, this does not. */
  async learn() {
    try {
      const before = this.release;
      this.release = await get("release");
      this.draw();
      this.act.learned();
      if (before?.release !== this.release.release || before.originals !== this.release.originals) {
        this.act.changed();
      }
    } catch {
      // asked again soon
    } finally {
      this.soon();
    }
  }

  draw() {
    const release = this.release;
    if (!release) return;
    library.draw(release.library);
    const when = moment(release.published, true);
    by("release").classList.add("known");
    by("release-when").textContent = t("released", { when: moment(release.published) });
    by("release").setAttribute("aria-label", `${t("aboutRelease")}: ${by("release-when").textContent}`);
    by("about").setAttribute("aria-label", t("aboutRelease"));
    const rows = [
      ["pictures", number(release.pictures)],
      ["made", when],
      ["releaseId", release.release],
      ["model", release.model.slice(0, 12)],
      ["recall", typeof release.metrics.mean_recall === "number" && share(release.metrics.mean_recall)],
      ["calibration", threshold(release.calibration)],
      ["verified", t(`verified_${release.verified}`)],
      ["problem", release.problem],
      ["library", library.told(release.library)],
      ["damaged", release.library?.damaged && number(release.library.damaged)],
    ].filter(([, value]) => value);
    by("about").replaceChildren(
      make("h2", {}, t("aboutRelease")),
      make("dl", { class: "facts" },
        ...rows.flatMap(([name, value]) => [make("dt", {}, t(name)), make("dd", {}, value)])));
  }
}

const share = (value) => (typeof value === "number" ? `${(100 * value).toFixed(1)} %` : "–");

const threshold = (found) => (found
  ? t("calibrated", { lost: share(found.lost), accepted: share(found.false_accepts) }) : "");
