"""The calibration of a release: measured over its segments, and told of in its report."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wentu import report
from wentu.calibration import measure
from wentu.calibration.scores import Calibration
from wentu.clip.bundle import Bundle
from wentu.language import pick
from wentu.store import SegmentRef, Store


def calibrated(
    store: Store, segments: Sequence[SegmentRef], bundle: Bundle, catalog: Path
) -> dict[str, Any]:
    """What a score means in this release, see ``wentu.calibration``; empty where it has no picture.

    Every release has its own: it depends on how many pictures there are.
    """
    parts = []
    for segment in segments:
        folder = store.segment(segment.digest)
        ids = np.load(folder / "ids.npy")
        vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        alive = np.isin(ids, np.array(segment.tombstones, np.int64), invert=True)
        parts.append(measure.Part(vectors=vectors, ids=ids, alive=alive))
    learned_here = bundle.info.get("architecture") == "tiny"  # there are no weights of it
    captions = measure.captions_of(catalog, units=learned_here)
    found = measure.measure(captions, measure.Gallery(parts), bundle.encode_text)
    if found is None:
        return {}
    calibration, known = found
    with tempfile.TemporaryDirectory() as place:
        known.save(Path(place))
        return replace(calibration, known=store.put_calibration(Path(place))).plain()


def sections_about(found: Calibration, plot: Path) -> list[report.Section]:
    """How a text for something that is not there is told from the others, and how well."""
    names = {
        "lost": pick("held-out captions refused", "被拒绝的留出描述"),
        "false_accepts": pick("background texts answered", "被回答的背景文本"),
        "left_out": pick("captions answered without their picture", "图片取走后仍被回答的描述"),
    }
    shown = {key: name for key, name in names.items() if key in found.curve[0]}
    limit = found.limits[-1].query
    report.plot_calibration(found.curve, shown, limit, plot)
    heading = pick("What counts as found", "何为“找到”")
    basis = {
        "captions": pick(
            f"Measured on {found.queries} captions of the valid split and {found.background} "
            f"background texts, over {found.gallery:,} pictures.",
            f"在验证集的 {found.queries} 条描述和 {found.background} 条背景文本上测得，"
            f"图库共 {found.gallery:,} 张图片。",
        ),
        "background": pick(
            f"There are too few held-out captions; measured on {found.background} background "
            f"texts alone, over {found.gallery:,} pictures.",
            f"留出的描述过少；仅在 {found.background} 条背景文本上测得，"
            f"图库共 {found.gallery:,} 张图片。",
        ),
    }
    figures = [
        (name, value) for key, name in names.items() if (value := getattr(found, key)) is not None
    ]
    limits = [
        (str(each.units) if each.units else pick("any", "任意"), each.query, each.picture)
        for each in found.limits
    ]
    return [
        report.Paragraph(text=basis[found.basis], heading=heading),
        report.Table(
            columns=(pick("at the limit", "在阈值处"), pick("share", "比例")), rows=figures
        ),
        report.Picture(png=plot, text=pick("shares by limit", "各阈值下的比例")),
        report.Table(
            columns=(
                pick("characters up to", "字数至多"),
                pick("answered from", "回答阈值"),
                pick("pictures shown from", "图片显示阈值"),
            ),
            rows=limits,
            heading=pick("Limits, in deviations", "阈值(标准差)"),
        ),
        report.Table(
            columns=(pick("limit", "阈值"), *shown.values()),
            rows=[tuple(row[key] for key in ("limit", *shown)) for row in found.curve],
            heading=pick("The whole curve", "完整曲线"),
        ),
    ]
