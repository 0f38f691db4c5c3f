"""Which of two models finds more, how sure that is, and whether the new one may take over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wentu import retrieval, zeroshot
from wentu.clip.encoder import Encoder
from wentu.formats import PairsLmdb, batched
from wentu.language import pick
from wentu.progress import Reporter
from wentu.retrieval import Task


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One model on the test split."""

    metrics: dict[str, float]
    text_to_image: retrieval.Ranks
    image_to_text: retrieval.Ranks
    first: npt.NDArray[np.int64]
    """[Q] for each caption, the gallery row that came first of those that are wrong."""

    def hits(self) -> npt.NDArray[np.float64]:
        """Per query, its mean over recall@1, 5, 10; captions first, then pictures."""
        best = np.concatenate([self.text_to_image.best, self.image_to_text.best])
        found: npt.NDArray[np.float64] = np.mean([best <= k for k in retrieval.KS], axis=0)
        return found


def score(split: PairsLmdb, task: Task, encoder: Encoder, name: str, progress: Reporter) -> Scored:
    """Encode every test picture and caption with one model, and rank both ways."""
    parts = progress.track(batched(task.image_ids, 32), name, len(task.image_ids), size=32)
    image = np.concatenate([encoder.encode_image([split.picture(i) for i in p]) for p in parts])
    text = encoder.encode_text(task.texts)
    to_image = retrieval.rank(text, image, task.pictures_of_text)
    to_text = retrieval.rank(image, text, task.texts_of_picture)
    return Scored(
        metrics=retrieval.summarize(to_image, to_text),
        text_to_image=to_image,
        image_to_text=to_text,
        first=best_wrong(text, image, task.pictures_of_text),
    )


def best_wrong(
    queries: npt.NDArray[np.float32],
    gallery: npt.NDArray[np.float32],
    right: Sequence[npt.NDArray[np.int64]],
) -> npt.NDArray[np.int64]:
    """[Q] for each of ``queries`` [Q, D], the nearest row of ``gallery`` [G, D] that is wrong."""
    found = np.empty(len(queries), np.int64)
    for first in range(0, len(queries), 512):
        scores = queries[first : first + 512] @ gallery.T
        for row, rows in zip(scores, right[first : first + 512], strict=True):
            row[rows] = -np.inf
        found[first : first + 512] = scores.argmax(axis=1)
    return found


def compare(
    rival: Scored,
    candidate: Scored,
    task: Task,
    groups: dict[int, int],
    resamples: int = 2000,
    level: float = 0.95,
) -> retrieval.Interval:
    """The candidate's mean recall minus the rival's, and how sure that is."""
    difference = (candidate.hits() - rival.hits()) * weights(task)
    clusters = clusters_of(task, groups)
    return retrieval.paired_bootstrap(difference, clusters, resamples=resamples, level=level)


def weights(task: Task) -> npt.NDArray[np.float64]:
    """[Q] of the queries, captions first, so that each direction counts half, as in mean recall.

    Captions are usually more than pictures.
    """
    texts, images = len(task.texts), len(task.image_ids)
    each = [(texts + images) / (2 * texts), (texts + images) / (2 * images)]
    return np.repeat(each, [texts, images])


def clusters_of(task: Task, groups: dict[int, int]) -> npt.NDArray[np.int64]:
    """The group that each query (captions first, then pictures) is resampled with.

    A caption that stands on several pictures goes with the first of them.
    """
    of_row = np.array([groups[image] for image in task.image_ids], dtype=np.int64)
    of_text = of_row[[rows[0] for rows in task.pictures_of_text]]
    return np.concatenate([of_text, of_row])


def judge(
    scored: dict[str, Scored],
    task: Task,
    groups: dict[int, int],
    *,
    had_champion: bool,
    resamples: int = 2000,
    level: float = 0.95,
) -> dict[str, Any]:
    """Promote or keep, the interval, and the reason in words.

    Against a champion the whole interval must lie above 0. The first model is released whatever
    its figures, for there is nothing else to serve; they are compared with its start.
    """
    rival = "champion" if had_champion else "start"
    if rival not in scored:
        reason = pick("there is no test split to compare on", "没有可供比较的测试集")
        return {"promote": not had_champion, "reason": reason, "against": "", "interval": None}
    interval = compare(scored[rival], scored["candidate"], task, groups, resamples, level)
    text = f"{100 * interval.mean:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"
    reason = (
        pick(
            f"mean recall {text} points against the current model",
            f"平均召回率相对现有模型变化 {text} 个百分点",
        )
        if had_champion
        else pick(
            f"first model; mean recall {text} points against its start",
            f"首个模型；平均召回率相对起始权重变化 {text} 个百分点",
        )
    )
    if not had_champion and interval.high < 0:
        reason += pick(
            ": worse than its start; `wentu run --no-train --model NAME` serves the start instead",
            "：不如起始权重；可用 wentu run --no-train --model 名称 直接使用起始权重",
        )
    better = interval.low > 0 or not had_champion
    return {"promote": better, "reason": reason, "against": rival, "interval": asdict(interval)}


def hold_to(
    suite: dict[str, zeroshot.Scores],
    verdict: dict[str, Any],
    *,
    had_champion: bool,
    most: float,
) -> dict[str, Any]:
    """The verdict, but no promotion of what lost more of the suite than ``most``, a share of it."""
    rival = "champion" if had_champion else "start"
    if rival not in suite:
        return verdict
    change = suite["candidate"].top1 - suite[rival].top1
    said = pick(
        f"general task {100 * change:+.1f} points (at most {-100 * most:.1f})",
        f"通用任务变化 {100 * change:+.1f} 个百分点(下限 {-100 * most:.1f})",
    )
    held = -change > most and had_champion
    return verdict | {
        "promote": verdict["promote"] and not held,
        "reason": verdict["reason"] + pick("; ", "；") + said,
        "suite_change": change,
    }
