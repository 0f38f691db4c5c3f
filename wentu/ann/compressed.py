"""An index of codes that is searched first, and the vectors themselves, that have the last word.

Vectors are dealt to lists around centres and coded relative to them with four bits for each two
numbers (IVF and fast-scan product quantisation of FAISS; Andre et al., "Quicker ADC", 2019), after
a random rotation that makes all numbers vary alike. A query looks through the codes of some lists
(``Effort.probes``) and compares the best of these (``Effort.depth``) with their vectors: so scores
are exact, and equal ones are in order. Codes take 128 bytes for 512 numbers; the vectors stay in
their file, which the system keeps in memory as far as there is room.

Chosen by measurement (docs/experiments.md): texts lie apart from all pictures, and what is near to
one is spread over many lists; so what counts is that codes are fast to look through, all of them if
need be. Graphs (HNSW) took far longer to build.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from wentu.ann.arrays import Ids, Vectors, best_rows, rescored

MOST_LISTS = 4096
POINTS_PER_LIST = 64
"""Vectors that centres are learned from, for each of them: at most 0.5 GB of 512 numbers."""
ROUNDS = 8
"""Of k-means; more moved recall by less than 0.001."""
AT_ONCE = 32_768
"""Vectors that are coded at once."""
DEEPER = 4
"""Candidates more for each result that is asked for."""
WIDER = 100
"""Results asked for beyond which as many probes again are made."""
EXACT_BELOW = 8
"""Where more than one in so many vectors would be candidates, all are compared."""
SEED = 20261127
BY_LISTS = 15
"""Of FAISS's ways to look through lists the one that deals them to threads: its own choice leaves
all of them to one thread where a query is alone (13.9 ms at a million; so 7.4)."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much of the index a query looks at."""

    probes: int
    """Lists."""
    depth: int
    """Candidates that are compared with their vectors."""


class Compressed:
    """Codes in memory, vectors wherever they are.

    Args:
        codes: of FAISS, see ``trained``. vectors: [N, D], those that were coded, mapped or not.
    """

    def __init__(self, codes: Any, vectors: Vectors, effort: Effort) -> None:
        import faiss

        self.codes, self.effort = codes, effort
        self.vectors = np.asarray(vectors)  # a view without the costs of np.memmap
        inner: Any = faiss.downcast_index(faiss.extract_index_ivf(codes))
        inner.implem = BY_LISTS
        self.lists = int(inner.nlist)
        self.ntotal, self.d = int(codes.ntotal), int(codes.d)

    def candidates(self, queries: Vectors, effort: Effort) -> Ids:
        """[Q, depth] rows by falling likeness of their codes; -1 where there are no more."""
        import faiss

        inner: Any = faiss.SearchParametersIVF()
        inner.nprobe = min(effort.probes, self.lists)
        params: Any = faiss.SearchParametersPreTransform()
        params.index_params = inner
        _, rows = self.codes.search(queries, min(effort.depth, self.ntotal), params=params)
        found: Ids = rows
        return found

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        """Scores and rows [Q, k] of the nearest that are found, best first, equal ones by row."""
        depth = self.effort.depth + DEEPER * k
        if depth * EXACT_BELOW > self.ntotal:
            return self._exact(queries, k)
        probes = self.effort.probes * (1 + k // WIDER)
        found = self.candidates(queries, Effort(probes=probes, depth=depth))
        if (found[:, k - 1] < 0).any():  # fewer than k in the lists
            return self._exact(queries, k)
        best = [self._best(rows, query, k) for rows, query in zip(found, queries, strict=True)]
        scores, rows = (np.stack(each) for each in zip(*best, strict=True))
        return scores, rows

    def _exact(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        _, found = best_rows(self.vectors, queries, k)
        best = [self._best(rows, query, k) for rows, query in zip(found, queries, strict=True)]
        scores, rows = (np.stack(each) for each in zip(*best, strict=True))
        return scores, rows

    def _best(self, rows: Ids, query: Vectors, k: int) -> tuple[Vectors, Ids]:
        rows = np.sort(rows[rows >= 0])  # so that the file is read in its order
        score = rescored(self.vectors, rows, query)
        order = np.argsort(-score, kind="stable")[:k]
        return score[order], rows[order]


def lists_for(count: int) -> int:
    """About the square root of the number of vectors, a power of two."""
    return min(MOST_LISTS, 1 << round(math.log2(max(1, count)) / 2))


def trained(vectors: Vectors) -> Any:
    """Codes of ``vectors`` [N, D], which are read in blocks.

    Time grows with N times the number of lists; memory with the codes (D / 4 + 8 bytes for each
    vector) beside a sample of at most 0.5 GB.
    """
    import faiss

    count, dimension = vectors.shape
    lists, pieces = lists_for(count), dimension // 2 if dimension % 2 == 0 else dimension
    made = faiss.index_factory(
        dimension, f"RR{dimension},IVF{lists},PQ{pieces}x4fsr", faiss.METRIC_INNER_PRODUCT
    )
    inner = faiss.extract_index_ivf(made)
    inner.cp.niter, inner.cp.seed = ROUNDS, SEED
    rng = np.random.default_rng(SEED)
    rows = rng.choice(count, min(count, POINTS_PER_LIST * lists), replace=False)
    made.train(np.ascontiguousarray(vectors[np.sort(rows)]))
    for start in range(0, count, AT_ONCE):
        made.add(np.ascontiguousarray(vectors[start : start + AT_ONCE]))
    return made
