"""A release without dead rows: of those segments that hold some, one is made without them.

Vectors are copied, not embedded again. What comes out is byte for byte what features and index
write where they write everything as one segment, so that equal content keeps its digest.
"""

from __future__ import annotations

import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wentu import ann
from wentu.formats import CATALOG, create_catalog, has_moments
from wentu.segments import alive_in, copy_catalog
from wentu.store import Release, SegmentRef, Store

Ids = npt.NDArray[np.int64]
ROWS = 65536
"""Vectors copied at once."""


def alive(store: Store, release: Release) -> Ids:
    """[N] sorted ids of the pictures that a release serves."""
    parts = [alive_in(store, segment) for segment in release.segments]
    return np.unique(np.concatenate(parts)) if parts else np.empty(0, np.int64)


def compacted(store: Store, release: Release, allowed: Ids | None = None) -> Release:
    """The same release without dead rows, and without pictures that are not ``allowed``.

    Its new segment is put into the store; where there is nothing to leave out, it is ``release``.
    """
    clean, touched = [], []
    for segment in release.segments:
        rows = alive_in(store, segment)
        if allowed is not None:
            rows = np.intersect1d(rows, allowed, assume_unique=True)
        count = len(np.load(store.segment(segment.digest) / "ids.npy", mmap_mode="r"))
        if len(rows) == count:
            clean.append((replace(segment, tombstones=()), count))
        else:
            touched.append((segment.digest, rows))
    if not touched:
        return release
    with tempfile.TemporaryDirectory() as folder:
        made = _merged(store, touched, Path(folder))
        new = [SegmentRef(digest=store.put_segment(made))] if made else []
    segments = (*(segment for segment, _ in clean), *new)
    pictures = sum(count for _, count in clean) + sum(len(rows) for _, rows in touched)
    return replace(
        release,
        segments=segments,
        pictures=pictures,
        files=store.files_of(release.model, segments, release.calibration),
    )


def _merged(store: Store, parts: list[tuple[str, Ids]], folder: Path) -> Path | None:
    """One segment of these rows of those segments, in ``folder``; None where no row is left."""
    parts = [(digest, rows) for digest, rows in parts if len(rows)]
    if not parts:
        return None
    ids = np.sort(np.concatenate([rows for _, rows in parts]))
    segment = folder / "segment"
    segment.mkdir()
    np.save(segment / "ids.npy", ids)
    _copy_vectors(store, parts, ids, segment / "vectors.npy")
    vectors = np.load(segment / "vectors.npy", mmap_mode="r")
    ann.make(vectors, segment)
    catalogs = [store.segment(digest) / CATALOG for digest, _ in parts]
    source = catalogs[0]
    if len(parts) > 1:
        source = folder / "all.sqlite"
        _gather(catalogs, [rows for _, rows in parts], source)
    copy_catalog(source, segment / CATALOG, ids.tolist())
    return segment


def _copy_vectors(store: Store, parts: list[tuple[str, Ids]], ids: Ids, target: Path) -> None:
    dimension = np.load(store.segment(parts[0][0]) / "vectors.npy", mmap_mode="r").shape[1]
    vectors = np.lib.format.open_memmap(
        target, mode="w+", dtype=np.float32, shape=(len(ids), dimension)
    )
    for digest, rows in parts:
        there = np.load(store.segment(digest) / "ids.npy")
        source = np.load(store.segment(digest) / "vectors.npy", mmap_mode="r")
        order = np.argsort(there)
        at = order[np.searchsorted(there, rows, sorter=order)]
        to = np.searchsorted(ids, rows)
        for first in range(0, len(rows), ROWS):
            part = slice(first, first + ROWS)
            vectors[to[part]] = source[at[part]]
    vectors.flush()


def _gather(catalogs: list[Path], rows: list[Ids], target: Path) -> None:
    """What several catalogs say of their rows, in one."""
    with closing(create_catalog(target)) as db:
        db.execute("CREATE TEMP TABLE wanted (id INTEGER PRIMARY KEY)")
        mine = "SELECT id FROM wanted"
        for catalog, ids in zip(catalogs, rows, strict=True):
            db.execute("DELETE FROM wanted")
            db.executemany("INSERT INTO wanted VALUES (?)", ((each,) for each in ids.tolist()))
            db.commit()
            db.execute("ATTACH ? AS old", (str(catalog),))
            moments = f"INSERT INTO moments SELECT * FROM old.moments WHERE picture IN ({mine})"
            for statement in (
                *([moments] if has_moments(db, "old") else []),
                f"INSERT INTO pictures SELECT * FROM old.pictures WHERE id IN ({mine})",
                f"INSERT INTO paths SELECT * FROM old.paths WHERE picture IN ({mine})",
                f"INSERT INTO captions SELECT * FROM old.captions WHERE picture IN ({mine})",
                "INSERT OR REPLACE INTO facts SELECT * FROM old.facts",
                "INSERT OR IGNORE INTO texts SELECT * FROM old.texts",
            ):
                db.execute(statement)
            db.commit()
            db.execute("DETACH old")
