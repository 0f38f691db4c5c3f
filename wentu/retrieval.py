"""How well a model finds: recall@k, mAP@k, MRR, and how sure we are that one model is better.

Pure NumPy over arrays of embeddings. Two choices cost a little and are deliberate:

- **Ties count against us.** A model that gives every picture the same vector would score 100 %
  if a tie went to the right picture; here it scores 0 %. Scores closer than float32 can tell
  apart (8 machine epsilons of the largest product of norms, about 1e-6 of a cosine) are ties:
  BLAS rounds the same pair differently at the edge of a block.
- **The gallery is always the whole split**, never one batch: a small batch is an easy gallery, a
  padded one an impossible one. The price is a score matrix of ``block`` rows by G columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from wentu.errors import InputError, QualityError

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

KS = (1, 5, 10)
"""The k of every recall@k that we report."""
MAP_K = 10
"""The k of the mAP@k that we report."""
FEWEST_CLUSTERS = 8
"""Of pictures, below which two models are not told apart: seven agree by chance once in 128."""
_TIE = np.float32(8 * np.finfo(np.float32).eps)
_DRAWS_AT_ONCE = 1 << 20
"""Cluster indices drawn together by the bootstrap: about 24 MiB."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The result of ranking Q queries against one gallery."""

    best: IntArray
    """[Q], 1-based rank of the best-placed relevant item, every tie counted against it."""
    average_precision: DoubleArray
    """[Q], AP@``map_k`` in 0..1, normalised by min(R, ``map_k``) for R relevant items."""
    map_k: int = MAP_K
    """Where the average precision was cut."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean difference (candidate minus champion) and what the bootstrap says about it."""

    mean: float
    low: float
    high: float
    probability_better: float
    """Share of resamples with a difference above 0; a difference of exactly 0 counts half."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A whole split as a retrieval task: distinct captions against distinct pictures."""

    image_ids: list[int]
    texts: list[str]
    pictures_of_text: list[IntArray]
    """For each caption the rows of its pictures."""
    texts_of_picture: list[IntArray]
    """For each picture the rows of its captions."""

    @classmethod
    def of(cls, pairs: list[tuple[int, int, str]]) -> Task:
        """The task that a split's (image id, text id, caption) pairs pose."""
        image_ids = sorted({image for image, _, _ in pairs})
        texts = sorted({(text_id, text) for _, text_id, text in pairs})
        image_row = {image: row for row, image in enumerate(image_ids)}
        text_row = {text_id: row for row, (text_id, _) in enumerate(texts)}
        of_text: list[set[int]] = [set() for _ in texts]
        of_picture: list[set[int]] = [set() for _ in image_ids]
        for image, text_id, _ in pairs:
            of_text[text_row[text_id]].add(image_row[image])
            of_picture[image_row[image]].add(text_row[text_id])
        return cls(
            image_ids=image_ids,
            texts=[text for _, text in texts],
            pictures_of_text=[np.array(sorted(rows)) for rows in of_text],
            texts_of_picture=[np.array(sorted(rows)) for rows in of_picture],
        )


def rank(
    queries: FloatArray,
    gallery: FloatArray,
    relevant: Sequence[IntArray],
    *,
    map_k: int = MAP_K,
    block: int = 256,
) -> Ranks:
    """Rank the gallery for each query by inner product (the cosine, for unit vectors).

    ``queries`` is [Q, D], ``gallery`` [G, D]; ``relevant[q]`` holds the gallery rows that are
    right answers to query q: at least one, in any order, doubles ignored. Memory is about
    ``block`` * G * 5 bytes; the result does not depend on ``block``.

    For the relevant items of a query by falling score, j = 1..R, item j has the rank
    j + (irrelevant items that score at least as high), and

        AP@k = sum of j / rank_j over rank_j <= k, divided by min(R, k)

    (Manning, Raghavan and Schütze, Introduction to Information Retrieval, 2008, section 8.4, cut
    at k; divided by min(R, k) so that 1 can be reached when R > k).

    Two queries, four gallery items. The first query has rows 0 and 3 right: row 0 leads, row 3
    comes third behind the irrelevant row 1. The second has row 2 right, which ties with row 3
    and so comes second.

    >>> queries = np.array([[1, 0], [0, 1]], np.float32)
    >>> gallery = np.array([[0.9, 0.1], [0.7, 0.2], [0.1, 0.8], [0.5, 0.8]], np.float32)
    >>> ranks = rank(queries, gallery, [np.array([0, 3]), np.array([2])])
    >>> ranks.best.tolist()
    [1, 2]
    >>> ranks.average_precision.round(4).tolist()  # (1/1 + 2/3) / 2 and (1/2) / 1
    [0.8333, 0.5]
    >>> recall_at(ranks, 1), mrr(ranks)
    (0.5, 0.75)

    Raises InputError when there is no query or no gallery, QualityError when an embedding holds
    NaN or infinity.
    """
    _check(queries, gallery, relevant, map_k, block)
    owner, row, start = _flatten(relevant, len(gallery))
    largest = np.sqrt(np.max(np.einsum("gd,gd->g", gallery, gallery)))
    best = np.empty(len(queries), np.int64)
    precision = np.empty(len(queries), np.float64)
    for first in range(0, len(queries), block):
        last = min(first + block, len(queries))
        pairs = slice(start[first], start[last])
        chunk = queries[first:last]
        tolerance = _TIE * largest * np.sqrt(np.einsum("qd,qd->q", chunk, chunk))
        best[first:last], precision[first:last] = _rank_block(
            chunk @ gallery.T, owner[pairs] - first, row[pairs], tolerance, map_k
        )
    return Ranks(best=best, average_precision=precision, map_k=map_k)


def _check(
    queries: FloatArray,
    gallery: FloatArray,
    relevant: Sequence[IntArray],
    map_k: int,
    block: int,
) -> None:
    assert queries.ndim == gallery.ndim == 2, (queries.shape, gallery.shape)
    assert queries.shape[1] == gallery.shape[1], (queries.shape, gallery.shape)
    assert len(relevant) == len(queries), (len(relevant), len(queries))
    assert min(map_k, block) >= 1, (map_k, block)
    if not len(queries) or not len(gallery):
        raise InputError(
            f"Retrieval needs queries and a gallery; there are {len(queries)} queries and "
            f"{len(gallery)} gallery items. Give the split at least one captioned picture.",
            f"检索评测需要查询和图库，现在有 {len(queries)} 条查询、{len(gallery)} 个图库条目。"
            "请让该数据划分至少包含一张有文字的图片。",
        )
    # A NaN compares as "not higher", which would put the right answer of a broken model first.
    if not (np.isfinite(queries).all() and np.isfinite(gallery).all()):
        raise QualityError(
            "Some embeddings are NaN or infinite, so nothing can be ranked. The training has "
            "probably diverged: lower the learning rate or start from other weights.",
            "部分向量含有 NaN 或无穷大，无法排序。训练很可能已发散："
            "请降低学习率，或换一份起始权重。",
        )


def _flatten(relevant: Sequence[IntArray], size: int) -> tuple[IntArray, IntArray, IntArray]:
    """Ragged answers as pairs: query [P], gallery row [P], and where each query begins [Q + 1]."""
    counts = np.array([len(rows) for rows in relevant], np.int64)
    assert counts.min() > 0, f"query {int(counts.argmin())} has no relevant item"
    rows = np.concatenate([np.asarray(rows, np.int64) for rows in relevant])
    assert 0 <= rows.min() <= rows.max() < size, (int(rows.min()), int(rows.max()), size)
    pairs = np.unique(np.repeat(np.arange(len(relevant)), counts) * size + rows)
    owner, row = np.divmod(pairs, size)
    start = np.searchsorted(owner, np.arange(len(relevant) + 1))
    return owner, row, start


def _rank_block(
    scores: FloatArray, owner: IntArray, row: IntArray, tolerance: FloatArray, map_k: int
) -> tuple[IntArray, DoubleArray]:
    """Best rank and AP of B queries from ``scores`` [B, G], which is overwritten.

    ``owner`` and ``row`` [P], sorted by owner, are the relevant pairs; ``tolerance`` [B] is how
    far apart two scores of a query may be and still be a tie.
    """
    size = scores.shape[1]
    hit = scores[owner, row]
    order = np.lexsort((-hit, owner))
    hit = hit[order] - tolerance[owner]  # owner is sorted already, so it stays as it is
    begin = np.searchsorted(owner, np.arange(len(scores)))
    place = np.arange(len(owner)) - begin[owner] + 1
    scores[owner, row] = -np.inf  # what is left competes with the relevant items
    best = 1 + np.count_nonzero(scores >= hit[begin][:, None], axis=1)

    # Only ranks up to k earn anything, and at most k rivals can decide that.
    rivals = min(map_k, size)
    scores.partition(size - rivals, axis=1)
    kept = np.flatnonzero(place <= map_k)
    above = np.count_nonzero(scores[owner[kept], size - rivals :] >= hit[kept, None], axis=1)
    position = place[kept] + above
    gain = np.where(position <= map_k, place[kept] / position, 0.0)
    answers = np.bincount(owner, minlength=len(scores))
    total = np.bincount(owner[kept], weights=gain, minlength=len(scores))
    return best.astype(np.int64), total / np.minimum(answers, map_k)


def recall_at(ranks: Ranks, k: int) -> float:
    """The share of queries, 0..1, with a relevant item among the first k."""
    return float(np.mean(ranks.best <= k))


def mrr(ranks: Ranks) -> float:
    """The mean reciprocal rank, 0..1: the mean of 1 / best."""
    return float(np.mean(1.0 / ranks.best))


def mean_average_precision(ranks: Ranks) -> float:
    """mAP@``ranks.map_k``, 0..1."""
    return float(np.mean(ranks.average_precision))


def summarize(t2i: Ranks, i2t: Ranks) -> dict[str, float]:
    """All figures of one model on one split, each in 0..1, under flat names.

    ``text_to_image/`` and ``image_to_text/`` each with ``recall@1``, ``recall@5``, ``recall@10``,
    ``map@10``, ``mrr`` and ``mean_recall``; and ``mean_recall``, the mean of the six recalls
    (the "MR" of the Chinese-CLIP paper, arXiv:2211.01335, as a fraction).
    """
    summary: dict[str, float] = {}
    for name, ranks in (("text_to_image", t2i), ("image_to_text", i2t)):
        assert ranks.map_k == MAP_K, f"the figures are named map@{MAP_K}, not map@{ranks.map_k}"
        recalls = [recall_at(ranks, k) for k in KS]
        summary |= {f"{name}/recall@{k}": value for k, value in zip(KS, recalls, strict=True)}
        summary[f"{name}/map@{MAP_K}"] = mean_average_precision(ranks)
        summary[f"{name}/mrr"] = mrr(ranks)
        summary[f"{name}/mean_recall"] = sum(recalls) / len(recalls)
    both = summary["text_to_image/mean_recall"] + summary["image_to_text/mean_recall"]
    return summary | {"mean_recall": both / 2}


def paired_bootstrap(
    difference: DoubleArray,
    clusters: IntArray,
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """How sure it is that the mean of ``difference`` is above 0.

    ``difference`` [N] is a figure in 0..1 of the candidate minus that of the champion, query by
    query; ``clusters`` [N] names the picture (any integer) that a query belongs to. Captions of
    one picture succeed and fail together, so whole pictures are drawn, with replacement, and
    the statistic of a resample is the sum of the differences over the number of queries drawn.
    The interval is the percentile interval at ``level``, expanded for few clusters: plain
    percentiles of equal models lie above 0 for one in eight of three clusters, where one in forty
    is meant. The same seed gives the same answer.

    Paired percentile bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
    chapter 13. Expanded percentiles: Hesterberg, "What Teachers Should Know About the Bootstrap",
    The American Statistician 69(4), 2015, section 5.3. Drawing whole clusters: Cameron, Gelbach
    and Miller, "Bootstrap-based improvements for inference with clustered errors", Review of
    Economics and Statistics 90(3), 2008.

    Fewer than ``FEWEST_CLUSTERS`` prove nothing, however they agree: the interval is then -1..1,
    the probability 0.5.
    Raises InputError when there is no query at all.
    """
    assert difference.ndim == 1, difference.shape
    assert difference.shape == clusters.shape, (difference.shape, clusters.shape)
    assert np.isfinite(difference).all(), "a difference is NaN or infinite"
    assert resamples >= 1, resamples
    assert 0 < level < 1, level
    if not len(difference):
        raise InputError(
            "Two models cannot be compared without test queries. Give the test split at least two "
            "captioned pictures.",
            "没有测试查询，无法比较两个模型。请让测试集至少包含两张有文字的图片。",
        )
    mean = float(np.mean(difference, dtype=np.float64))
    names, member = np.unique(clusters, return_inverse=True)
    if len(names) < FEWEST_CLUSTERS:
        return Interval(mean=mean, low=-1.0, high=1.0, probability_better=0.5)
    sums: DoubleArray = np.bincount(member, weights=difference).astype(np.float64)
    draws = _draw(sums, np.bincount(member), resamples, np.random.default_rng(seed))
    tail = _expanded((1 - level) / 2, len(names))
    low, high = np.quantile(draws, [tail, 1 - tail])
    better = np.mean(draws > 0) + np.mean(draws == 0) / 2
    return Interval(mean=mean, low=float(low), high=float(high), probability_better=float(better))


def _expanded(tail: float, number: int) -> float:
    """The share of the bootstrap's draws to cut off at each end, for ``number`` clusters.

    The normal's tail beyond sqrt(n / (n - 1)) times Student's quantile with n - 1 degrees of
    freedom, which is expanded in powers of 1 / (n - 1) (Abramowitz and Stegun 1964, 26.7.5).
    """
    normal, free = NormalDist(), number - 1
    z = -normal.inv_cdf(tail)
    student = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return normal.cdf(-student * math.sqrt(number / free))


def _draw(
    sums: DoubleArray, counts: IntArray, resamples: int, rng: np.random.Generator
) -> DoubleArray:
    """[resamples] means over as many clusters as there are, drawn with replacement."""
    number = len(sums)
    means = np.empty(resamples, np.float64)
    step = max(1, _DRAWS_AT_ONCE // number)
    for first in range(0, resamples, step):
        drawn = rng.integers(number, size=(min(step, resamples - first), number))
        means[first : first + step] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return means
