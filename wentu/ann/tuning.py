"""How much of an index a query must look at, found and proven against brute force.

Two kinds of queries are asked. *Pictures*: vectors of the gallery, each without itself.
*Text-like*: captions have no vectors yet when an index is built, so pictures are moved to where
texts lie: what two pictures have of their own (without the mean of all) is put together, so that
neither is simply found again, and little of it is kept; noise in all directions is added, and a
step that is the same for all, the gap between texts and pictures (Liang et al., "Mind the gap",
2022). With more of it kept (0.45) such queries were easier than texts for pictures that the gallery
does not hold: measured 0.995 where those had 0.93. Half of the queries choose the effort, the other
half prove it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wentu.ann.arrays import Ids, Vectors, best_rows, rescored
from wentu.ann.compressed import SEED, Compressed, Effort

QUERIES = 200
"""Of each kind, for choosing; as many again prove what was chosen."""
KEPT, NOISE, GAP = 0.2, 0.6, 0.6
"""Lengths of the three parts of a text-like query."""
SHARES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)
"""Of the lists."""
DEPTHS = (50, 100, 200, 400, 800, 1600, 3200)
SCAN, RESCORE = 10e-9, 1e-6
"""Seconds for each code and each candidate of 512 numbers on one core: only what they are to each
other matters. Not measured while building, so that the same vectors give the same index."""
MARGIN = 0.25
"""Of what may be missed, left as a reserve when choosing."""
K = 10


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Queries with what brute force finds for them."""

    queries: Vectors
    """[Q, D]"""
    own: Ids
    """[Q] the row that a query is, which does not count; -1: it is none."""
    worst: Vectors
    """[Q] score of the last of the true nearest."""

    def recall(self, scores: Vectors, rows: Ids) -> npt.NDArray[np.float64]:
        """[Q] share of the true nearest among what was found (by score, so that ties do not count
        as misses)."""
        right = (scores >= self.worst[:, None] - 1e-5) & (rows != self.own[:, None]) & (rows >= 0)
        share: npt.NDArray[np.float64] = np.minimum(right.sum(axis=1), K) / K
        return share


def asked(vectors: Vectors, rows: Ids, *, text_like: bool, rng: np.random.Generator) -> Asked:
    """Queries made of these rows."""
    queries = np.ascontiguousarray(vectors[rows])
    own = np.full(len(rows), -1, np.int64) if text_like else rows.astype(np.int64)
    if text_like:
        own_part = unit(queries - queries.mean(axis=0))
        gap = np.random.default_rng(SEED).normal(size=(1, vectors.shape[1]))
        kept = unit(own_part + np.roll(own_part, 1, axis=0))
        noise = unit(rng.normal(size=queries.shape))
        queries = unit(KEPT * kept + NOISE * noise + GAP * unit(gap))
    scores, found = best_rows(vectors, queries, K + 1)
    worst = np.where((found[:, :K] == own[:, None]).any(axis=1), scores[:, K], scores[:, K - 1])
    return Asked(queries=queries, own=own, worst=worst)


def unit(vectors: npt.NDArray[np.floating]) -> Vectors:
    """Rows of length 1."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-12), np.float32)


def questions(vectors: Vectors) -> tuple[list[Asked], list[Asked]]:
    """(for choosing, for proving), each of pictures and of text-like queries."""
    rng = np.random.default_rng(SEED)
    drawn = rng.choice(len(vectors), min(4 * QUERIES, len(vectors)), replace=False)
    quarters = np.array_split(drawn, 4)
    made = [
        asked(vectors, rows, text_like=number % 2 == 1, rng=rng)
        for number, rows in enumerate(quarters)
    ]
    return made[:2], made[2:]


def choose(index: Compressed, questions: list[Asked], least: float) -> Effort | None:
    """The cheapest effort with which every kind of queries is answered well enough, with a margin;
    None where there is none."""
    goal = least + MARGIN * (1 - least)
    best: tuple[float, Effort] | None = None
    for share in SHARES:
        probes = max(1, round(share * index.lists))
        depths = depth_for(index, questions, probes, goal)
        if depths is None:
            continue
        cost = share * index.ntotal * SCAN + depths * RESCORE
        if best is None or cost < best[0]:
            best = cost, Effort(probes=probes, depth=depths)
        if depths == DEPTHS[0]:
            break
    return best[1] if best else None


def depth_for(index: Compressed, questions: list[Asked], probes: int, goal: float) -> int | None:
    """The least of DEPTHS that is enough with so many probes."""
    needed = 0
    for each in questions:
        found = index.candidates(each.queries, Effort(probes=probes, depth=DEPTHS[-1]))
        scores = np.stack(
            [
                np.where(rows >= 0, rescored(index.vectors, np.maximum(rows, 0), query), -np.inf)
                for rows, query in zip(found, each.queries, strict=True)
            ]
        )
        enough = [
            depth
            for depth in DEPTHS
            if each.recall(scores[:, :depth], found[:, :depth]).mean() >= goal
        ]
        if not enough:
            return None
        needed = max(needed, enough[0])
    return needed


def prove(index: Any, questions: list[Asked]) -> list[float]:
    """Recall@10 of each kind of queries, by the search that will be served."""
    return [float(each.recall(*index.search(each.queries, K + 1)).mean()) for each in questions]


def gpu_count() -> int:
    """How many GPUs FAISS can use; 0 in its build for CPUs, and where there are none."""
    import faiss

    return int(faiss.get_num_gpus())


def on_gpus(index: Any) -> Any:
    """A copy of an index on every GPU there is; the index itself where there is none.

    What is written and served stays the index in main memory, which any machine can read.
    """
    import faiss

    return faiss.index_cpu_to_all_gpus(index) if gpu_count() else index


def exact_recall(index: Any, vectors: Vectors, *, k: int = 10, sample: int = 200) -> float:
    """Recall@k of an index against brute force in NumPy, on up to ``sample`` of its own vectors.

    The share of the true k nearest (by score, so that ties do not count as misses) that it finds.
    """
    rows = np.linspace(0, len(vectors) - 1, min(sample, len(vectors))).astype(int)
    k = min(k, len(vectors))
    truth = np.sort(vectors[rows] @ vectors.T, axis=1)[:, -k]
    found, _ = on_gpus(index).search(np.ascontiguousarray(vectors[rows]), k)
    return float(np.mean(found >= truth[:, None] - 1e-5))
