"""Searching several indexes as one: a release is a base and small deltas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from wentu.ann.arrays import Ids, Vectors
from wentu.ann.turns import turn


@dataclass(frozen=True, kw_only=True)
class Part:
    """One segment as it is searched: its index, the id of each row, and which rows count."""

    index: Any
    """FAISS's, or ours over it: ``search(queries, k)`` gives scores and rows, best first."""
    ids: Ids
    """[N]"""
    dead: frozenset[int] = frozenset()
    """Ids that are not to be found here: deleted, or replaced in a later segment."""

    @cached_property
    def gone(self) -> npt.NDArray[np.bool_]:
        """[N] which rows are dead."""
        return np.isin(self.ids, np.fromiter(self.dead, np.int64, len(self.dead)))

    @cached_property
    def alive(self) -> int:
        """How many rows count."""
        return len(self.ids) - int(self.gone.sum()) if self.dead else len(self.ids)


def search(parts: Sequence[Part], queries: Vectors, k: int) -> tuple[Vectors, Ids]:
    """The best ``k`` pictures over all parts for each of ``queries`` [Q, D].

    Returns scores [Q, K] and ids [Q, K], best first, K = min(k, pictures that count); equal scores
    are ordered by id, so that the order never depends on how the rows are spread over parts.
    """
    found = [_nearest(part, np.ascontiguousarray(queries), k) for part in parts if part.alive]
    if not found:
        return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    score_of, id_of = (np.concatenate(each, axis=1) for each in zip(*found, strict=True))
    order = np.lexsort((id_of, -score_of), axis=1)[:, : min(k, sum(part.alive for part in parts))]
    return np.take_along_axis(score_of, order, 1), np.take_along_axis(id_of, order, 1)


def _nearest(part: Part, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
    """Scores and ids: the best ``k`` that count and whatever ties with the last of them; dead ones
    have a score of -inf."""
    least = min(k, part.alive)
    expected = 2 * least * (len(part.ids) - part.alive) // part.alive
    want = least + min(len(part.ids) - part.alive, expected + 16)
    while True:
        want = min(want + 1, len(part.ids))
        with turn():
            score, row = part.index.search(queries, want)
        last = score[:, -1]
        if part.dead:
            score = np.where(part.gone[row], np.float32(-np.inf), score)
        worst = -np.partition(-score, least - 1, axis=1)[:, least - 1]
        if want == len(part.ids) or (worst > last).all():
            return score, part.ids[row]
        want *= 2
