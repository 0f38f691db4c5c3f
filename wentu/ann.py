"""Building, merging and searching FAISS indexes. (Choosing among kinds comes with its own issue.)

Vectors are L2-normalised float32, so inner product is cosine similarity. Files go through Python's
own IO: FAISS itself cannot open paths with Chinese characters on Windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wentu.errors import FormatError
from wentu.formats import write_atomic

Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
BLOCK = 16_384
"""Rows that are copied at once where only some are compared."""


def build(vectors: Vectors) -> Any:
    """An exact inner-product index over ``vectors`` [N, D], by row number."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    return index


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


def write_index(index: Any, path: Path) -> None:
    """Write an index, whole or not at all."""
    import faiss

    write_atomic(path, faiss.serialize_index(index).tobytes())


def read_index(path: Path) -> Any:
    """Read an index; FormatError where the file is none."""
    import faiss

    try:
        return faiss.deserialize_index(np.frombuffer(path.read_bytes(), dtype=np.uint8))
    except RuntimeError as error:
        raise FormatError(
            f"{path} is no FAISS index ({error}).", f"{path} 不是 FAISS 索引({error})。"
        ) from None


@dataclass(frozen=True, kw_only=True)
class Part:
    """One segment as it is searched: its index, the id of each row, and which rows count."""

    index: Any
    ids: Ids
    """[N]"""
    dead: frozenset[int] = frozenset()
    """Ids that are not to be found here: deleted, or replaced in a later segment."""


def search(parts: Sequence[Part], queries: Vectors, k: int) -> tuple[Vectors, Ids]:
    """The best ``k`` pictures over all parts for each of ``queries`` [Q, D].

    Returns scores [Q, K] and ids [Q, K], best first, K = min(k, pictures that count); equal scores
    are ordered by id, so that the order never depends on how the rows are spread over parts.
    """
    scores: list[Vectors] = []
    ids: list[Ids] = []
    for part in parts:
        want = min(k + len(part.dead), len(part.ids))
        if want == 0:
            continue
        score, row = _nearest(part, np.ascontiguousarray(queries), want)
        found = part.ids[row]
        if part.dead:
            score = np.where(np.isin(found, list(part.dead)), -np.inf, score)
        scores.append(score.astype(np.float32))
        ids.append(found)
    if not scores:
        return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    alive = sum(len(part.ids) - len(part.dead) for part in parts)
    score_of, id_of = np.concatenate(scores, axis=1), np.concatenate(ids, axis=1)
    order = np.lexsort((id_of, -score_of), axis=1)[:, : min(k, alive)]
    return np.take_along_axis(score_of, order, 1), np.take_along_axis(id_of, order, 1)


def _nearest(part: Part, queries: Vectors, least: int) -> tuple[Vectors, Ids]:
    """The best ``least`` rows, and whatever ties with the last of them."""
    want = least
    while True:
        want = min(want + 1, len(part.ids))
        score, row = part.index.search(queries, want)
        if want == len(part.ids) or (score[:, least - 1] > score[:, -1]).all():
            return score, row
        want *= 2


def score_rows(vectors: Vectors, rows: Ids, query: Vectors) -> Vectors:
    """[R] inner products of ``query`` [D] with some rows of ``vectors`` [N, D], which may be a
    file that is mapped: it is read in blocks."""
    parts = [vectors[rows[start : start + BLOCK]] @ query for start in range(0, len(rows), BLOCK)]
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def exact_recall(index: Any, vectors: Vectors, *, k: int = 10, sample: int = 200) -> float:
    """Recall@k of an index against brute force in NumPy, on up to ``sample`` of its own vectors.

    The share of the true k nearest (by score, so that ties do not count as misses) that it finds.
    """
    rows = np.linspace(0, len(vectors) - 1, min(sample, len(vectors))).astype(int)
    k = min(k, len(vectors))
    truth = np.sort(vectors[rows] @ vectors.T, axis=1)[:, -k]
    found, _ = on_gpus(index).search(np.ascontiguousarray(vectors[rows]), k)
    return float(np.mean(found >= truth[:, None] - 1e-5))
