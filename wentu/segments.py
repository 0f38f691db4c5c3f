"""What segments hold, and making one out of others: shared by the stages, gc and the library.

Vectors are copied wherever a segment has them already: only what is new is embedded.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wentu.formats import create_catalog, has_moments
from wentu.store import SegmentRef, Store

Ids = npt.NDArray[np.int64]

ROWS_AT_ONCE = 65_536
"""Vectors that are copied at once."""


def alive_in(store: Store, segment: SegmentRef) -> Ids:
    """[N] sorted ids of a segment that count."""
    ids = np.sort(np.load(store.segment(segment.digest) / "ids.npy"))
    return np.setdiff1d(ids, np.array(segment.tombstones, np.int64), assume_unique=True)


def described(db: sqlite3.Connection) -> npt.NDArray[Any]:
    """[N] (id, hash of what a catalog says of it: paths, captions, group, ...), by id."""
    query = (
        "SELECT p.id, p.split, p.own_id, p.grp, (SELECT group_concat(path, char(10)) FROM (SELECT "
        "path FROM paths WHERE picture = p.id ORDER BY path)), (SELECT group_concat(said, "
        "char(10)) FROM (SELECT text || coalesce(original, '') AS said FROM captions "
        "WHERE picture = p.id ORDER BY text)) FROM pictures p ORDER BY p.id"
    )
    kind = np.dtype([("id", np.int64), ("said", np.int64)])
    count = db.execute("SELECT count(*) FROM pictures").fetchone()[0]
    return np.fromiter(((row[0], hash(row[1:])) for row in db.execute(query)), kind, count)


class ReadyVectors:
    """Vectors that segments of the store hold already."""

    def __init__(self, store: Store, digests: tuple[str, ...]) -> None:
        self._parts = []
        for digest in reversed(digests):  # the newest first: it replaces the older
            folder = store.segment(digest)
            ids = np.load(folder / "ids.npy")
            order = np.argsort(ids)
            vectors = np.load(folder / "vectors.npy", mmap_mode="r")
            self._parts.append((ids[order], order, vectors))

    def holds(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """[N] is there a vector of it?"""
        found = np.zeros(len(ids), bool)
        for known, _, _ in self._parts:
            found |= places(known, ids) >= 0
        return found

    def copy(self, ids: Ids, vectors: npt.NDArray[np.float32]) -> None:
        """Put the vectors that there are into ``vectors``, row by row of ``ids``."""
        left = np.ones(len(ids), bool)
        for known, order, source in self._parts:
            at = places(known, ids)
            rows = np.flatnonzero((at >= 0) & left)
            left[rows] = False
            for first in range(0, len(rows), ROWS_AT_ONCE):
                some = rows[first : first + ROWS_AT_ONCE]
                vectors[some] = source[order[at[some]]]


def places(known: Ids, ids: Ids) -> npt.NDArray[np.intp]:
    """[N] where each of ``ids`` stands in ``known``, which is sorted; -1: nowhere."""
    if not len(known):
        return np.full(len(ids), -1)
    at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return np.where(known[at] == ids, at, -1)


def copy_catalog(source: Path, target: Path, ids: list[int]) -> None:
    """The part of a catalog that speaks of ``ids``."""
    with closing(create_catalog(target)) as db:
        db.execute("ATTACH ? AS whole", (str(source),))
        db.execute("CREATE TEMP TABLE wanted (id INTEGER PRIMARY KEY)")
        db.executemany("INSERT INTO wanted VALUES (?)", ((each,) for each in ids))
        mine = "SELECT id FROM wanted"
        moments = f"INSERT INTO moments SELECT * FROM whole.moments WHERE picture IN ({mine})"
        for statement in (
            f"INSERT INTO pictures SELECT * FROM whole.pictures WHERE id IN ({mine})",
            *([moments] if has_moments(db, "whole") else []),
            f"INSERT INTO paths SELECT * FROM whole.paths WHERE picture IN ({mine})",
            f"INSERT INTO captions SELECT * FROM whole.captions WHERE picture IN ({mine})",
            "INSERT INTO facts SELECT * FROM whole.facts",
            "INSERT INTO texts SELECT * FROM whole.texts WHERE id IN (SELECT text FROM captions)",
        ):
            db.execute(statement)
        db.commit()
        vacuum(db)


def vacuum(db: sqlite3.Connection) -> None:
    """Equal content becomes equal bytes, so that a retried stage gives the same segment."""
    db.execute("DETACH whole")
    db.execute("VACUUM")
