"""promote: a new release becomes current, or nothing changes.

Everything is written under its digest first; the last act is to create the next pointer, which only
one of several can do. Whoever loses learns that its comparison is stale. Repeating a promotion that
was cut off, before or after any write, ends in the same release.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wentu import notices, report, tracking
from wentu.calibration import from_plain
from wentu.calibration.release import calibrated, sections_about
from wentu.clip.bundle import Bundle, bundle_digest
from wentu.errors import QualityError, StaleError
from wentu.formats import CATALOG, count_rows, read_manifest, write_json
from wentu.language import pick
from wentu.settings import StageConfig, option
from wentu.stage import Stage
from wentu.store import Pointer, Release, SegmentRef, Store, read_reuse

VERDICT = "verdict/"
"""Before the names of a verdict's numbers, in a release's metrics and in MLflow."""


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """What to keep beside a release; the verdict decides whether there is one."""

    note: str = option("", "Why this release is made; kept with it.", "发布原因，随版本保存。")


def promote(
    *,
    catalog: Path,
    bundle: Path,
    index: Path,
    store: str,
    inventory: str,
    out: Path,
    config: Config,
    evaluation: Path | None = None,
    pointer: int = 0,
    attempt: str = "",
    pictures: str = "",
    captions: str = "",
    use: str = "",
    use_digest: str = "",
) -> None:
    """Put model and segments into the store, write the release, publish it.

    Into ``out`` go ``release.json`` and a report.

    Args:
        catalog, bundle, index: outputs of pairs, of the winner, of index.
        evaluation: output of evaluate; None for a refresh.
        pointer: number of the pointer that all of this was compared with.
        attempt: key of the training that this ends, from inventory.
        pictures, captions: of the collection, for a later refresh.
        use, use_digest: the weights that inventory named, and their digest.

    Raises StaleError where another release became current meanwhile.
    """
    inputs = {
        "index": read_manifest(index, "index").digest,
        "model": bundle_digest(bundle),
        "pointer": str(pointer),
    }
    with Stage("promote", out, config, inputs) as stage:
        vault = Store(store)
        parameters = {"pictures": pictures, "captions": captions}
        if evaluation is None and not use.startswith("store:"):
            parameters["served_from"] = use_digest  # named by the user: the same again is no change
        result = evaluated(vault, inputs["model"], evaluation)
        reason = reason_of(result) if evaluation is not None else ""
        note = "; ".join(filter(None, (config.note, reason)))
        if note:
            parameters["note"] = note
        with vault.storage.lock("promote"):
            release = assemble(
                vault, catalog, bundle, index, inventory, result, pointer, parameters
            )
            found = publish(vault, release, pointer, "refresh" if evaluation is None else "train")
            if evaluation is not None:
                vault.end_attempt(attempt)
            repair_aliases(vault)
        if found.release != release.id:
            release = vault.release(found.release)
        report_on(release, out)
        stage.tracker.artifact(out / "report.html")
        write_json(out / "release.json", {"release": release.id, "pointer": found.number})
        stage.counts |= {"release": release.id, "pictures": release.pictures}
        stage.progress.note(
            pick(f"release {release.id} is current", f"版本 {release.id} 已成为当前版本")
        )
        tags = {"wentu.release": release.id, "wentu.model": release.model}
        tags |= {"wentu.note": config.note} if config.note else {}
        tags |= {"wentu.reason": reason} if reason else {}
        stage.tracker.headline({"pictures": float(release.pictures)} | figures_of(result), tags)
        judged = result if evaluation is not None else {}
        tell(vault, release, pointer, judged, stage.tracker.link)


def evaluated(store: Store, model: str, evaluation: Path | None) -> dict[str, Any]:
    """What evaluate said in this run, or in the one whose candidate this model is.

    Empty for a refresh, but where `promote --anyway` left it in the store.
    """
    if evaluation is not None:
        found: dict[str, Any] = json.loads((evaluation / "evaluation.json").read_text("utf-8"))
        return found
    key = evaluation_key(model)
    return dict(json.loads(store.storage.read(key))) if store.storage.exists(key) else {}


def evaluation_key(model: str) -> str:
    """Where `promote --anyway` leaves what was said of a model until it is released."""
    return f"evaluations/{model}.json"


def reason_of(result: Mapping[str, Any]) -> str:
    """Why a training's model is released, or is not, in words."""
    reason = str(result["verdict"]["reason"])
    if result["winner"] == result["candidate"]:
        return reason
    return pick(f"the trained model was not promoted: {reason}", f"训练出的模型未被采用：{reason}")


def figures_of(result: Mapping[str, Any]) -> dict[str, float]:
    """The verdict in numbers, by names that go beside the metrics of a model.

    difference, low and high are of mean recall, as shares; promote is 1 or 0. What was not measured
    is left out.
    """
    verdict = result.get("verdict") or {}
    interval = verdict.get("interval") or {}
    named = {
        "promote": verdict.get("promote"),
        "difference": interval.get("mean"),
        "low": interval.get("low"),
        "high": interval.get("high"),
        "suite_change": verdict.get("suite_change"),
    }
    return {f"{VERDICT}{name}": float(v) for name, v in named.items() if v is not None}


def tell(
    store: Store, release: Release, pointer: int, result: Mapping[str, Any], link: str
) -> None:
    """A notice where a training came to its verdict (``result``), or another model is current."""
    before = store.pointer(pointer) if pointer else None
    same = before is not None and store.release(before.release).model == release.model
    told = {"stage": "promote", "release": release.id, "link": link}
    if result and result["winner"] != result["candidate"]:
        figures = result["metrics"].get("candidate", {}) | figures_of(result)
        notices.send("rejection", reason_of(result), metrics=figures, **told)
    elif result or not same:
        text = pick(
            f"release {release.id} is current, with another model and {release.pictures:,} "
            "pictures",
            f"版本 {release.id} 已成为当前版本，使用新的模型，共 {release.pictures:,} 张图片",
        )
        notices.send("promotion", text, metrics=release.metrics, **told)


def assemble(
    store: Store,
    catalog: Path,
    bundle: Path,
    index: Path,
    inventory: str,
    result: Mapping[str, Any],
    pointer: int,
    parameters: dict[str, str],
) -> Release:
    """Write model and new segment into the store; the release that names them."""
    model, dimension, kept = read_reuse(index)
    if model != bundle_digest(bundle) or dimension != Bundle(bundle).dimension:
        raise QualityError(
            "the vectors were not made by the model that is to be released; run features again.",
            "向量不是由将要发布的模型生成的，请重新运行 features。",
        )
    store.put_model(bundle, model)
    segments = list(kept)
    if (index / "segment").is_dir():
        segments.append(SegmentRef(digest=store.put_segment(index / "segment")))
    metrics, split_version = measured(store, model, result, pointer)
    calibration = calibrated(store, segments, Bundle(bundle), catalog / CATALOG)
    return Release(
        model=model,
        segments=tuple(segments),
        inventory=inventory,
        dimension=dimension,
        pictures=count_rows(catalog / "catalog.sqlite", "pictures"),
        metrics=metrics,
        split_version=split_version,
        files=store.files_of(model, segments, calibration),
        parameters=parameters,
        calibration=calibration,
        index=recall_of_index(store, index, pointer),
    )


def recall_of_index(store: Store, index: Path, pointer: int) -> dict[str, Any]:
    """What index measured, or the run before it where nothing is new."""
    counts = read_manifest(index, "index").counts
    if "recall_at_10" in counts:
        return {"recall_at_10": counts["recall_at_10"]}
    found = store.pointer(pointer) if pointer else None
    return dict(store.release(found.release).index) if found else {}


def report_on(release: Release, out: Path) -> None:
    """``report.html``: what the release is, and the whole curve of its calibration."""
    found = from_plain(release.calibration)
    facts: list[tuple[str, str | float]] = [
        (pick("pictures", "图片"), release.pictures),
        (pick("model", "模型"), release.model),
        *sorted(release.metrics.items()),
    ]
    sections: list[report.Section] = [
        report.Table(columns=(pick("release", "版本"), release.id), rows=facts)
    ]
    if found:
        sections += sections_about(found, out / "calibration.png")
    report.write_html(out / "report.html", pick("Release", "版本"), sections)


def measured(
    store: Store, model: str, result: Mapping[str, Any], pointer: int
) -> tuple[dict[str, float], str]:
    """(metrics, split version) of the model that is released, and the verdict that it stands on.

    From an evaluation, or handed on from the release before it if the model is the same. Of a model
    that is kept the figures are new, and the verdict is still the one it came with: this one was on
    the candidate.
    """
    found = store.pointer(pointer) if pointer else None
    release = store.release(found.release) if found else None
    before = dict(release.metrics) if release and release.model == model else {}
    if not result:
        return before, release.split_version if release and before else ""
    is_candidate = model == result["candidate"]
    name = "candidate" if is_candidate else "champion"
    metrics: dict[str, float] = dict(result["metrics"].get(name, {}))
    if name in result.get("suite", {}):
        metrics["suite/top1"] = result["suite"][name]["top1"]
    verdict = {key: value for key, value in before.items() if key.startswith(VERDICT)}
    return metrics | (figures_of(result) if is_candidate else verdict), result["split_version"]


def publish(store: Store, release: Release, pointer: int, reason: str) -> Pointer:
    """Make the release current; done already is fine, somebody else's is StaleError.

    A refresh that came during a training, as on a cluster it may, changes nothing of what the
    training was compared with: its model is published after it. Where that model is the one that
    is served already, the newer release stays. What the other one knew and this one does not (new
    pictures, deleted ones) the next run finds, since it compares with this one's listing.
    """
    now = store.pointer()
    number = now.number if now else 0
    if now and now.release == release.id and number >= pointer:
        return now
    if number != pointer:
        if reason != "train" or not same_champion(store, pointer, now):
            raise StaleError(
                f"pointer {number} is current, this run compared with {pointer}: its comparison is "
                "stale. Run again.",
                f"当前指针是 {number}，本次比较的是 {pointer}：已过期，请重新运行。",
            )
        assert now is not None
        if store.release(now.release).model == release.model:
            return now
    store.write_release(release)
    pinned = bool(now and now.pinned)
    return store.publish(release.id, after=number, reason=reason, pinned=pinned)


def same_champion(store: Store, pointer: int, now: Pointer | None) -> bool:
    """Is the model that a run was compared with the one that is served, and free to be replaced?"""
    before = store.pointer(pointer) if pointer else None
    if before is None or now is None or now.pinned:
        return False
    return store.release(before.release).model == store.release(now.release).model


def repair_aliases(store: Store) -> None:
    """Make MLflow's aliases say what the pointer says: this model, and the one before it."""
    models: list[str] = []
    for _, release in reversed(store.history()):
        model = release.model
        if model not in models:
            models.append(model)
        if len(models) == 2:
            break
    tracking.repair_aliases([(model, store.model_uri(model)) for model in models])
