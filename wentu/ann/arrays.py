"""Inner products with vectors that may be a file that is mapped: read in blocks, never whole."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
BLOCK = 32_768
"""Rows that are compared at once."""


def score_rows(vectors: Vectors, rows: Ids, query: Vectors) -> Vectors:
    """[R] inner products of ``query`` [D] with some rows of ``vectors`` [N, D]."""
    parts = [vectors[rows[start : start + BLOCK]] @ query for start in range(0, len(rows), BLOCK)]
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def rescored(vectors: Vectors, rows: Ids, query: Vectors) -> Vectors:
    """The same for few rows; a row has the same score to the bit whatever others are beside it,
    as a BLAS does not promise: equal vectors stay equal, and pages fit each other."""
    score: Vectors = np.einsum("ij,j->i", vectors[rows], query)
    return score


def best_rows(vectors: Vectors, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
    """Scores and rows [Q, K] of the ``k`` nearest by brute force, best first, equal ones by row.

    Which of those that tie with the last are among them is left open.
    """
    import faiss

    scores = np.empty((len(queries), 0), np.float32)
    rows = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(vectors), BLOCK):
        block = np.ascontiguousarray(vectors[start : start + BLOCK])
        most = min(k, len(block))
        score, row = faiss.knn(queries, block, most, metric=faiss.METRIC_INNER_PRODUCT)
        scores, rows = np.concatenate([scores, score], 1), np.concatenate([rows, row + start], 1)
        if scores.shape[1] > k:
            best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            scores = np.take_along_axis(scores, best, 1)
            rows = np.take_along_axis(rows, best, 1)
    order = np.lexsort((rows, -scores), axis=1)
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
