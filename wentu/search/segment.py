"""A segment opened for searching: its index, ids, vectors and catalog, for many threads at once.

Segments never change, so an engine hands those that the next release has too on to the next engine:
a swap costs what is new. Whoever uses one says so (``hold``, ``let_go``); the last one closes it.

FAISS searches and mapped vectors may be read by many threads; a connection to SQLite is lent to one
at a time, and opened when none is free.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wentu import ann
from wentu.errors import FormatError
from wentu.formats import CATALOG, open_catalog

Rows = npt.NDArray[np.int64]
CONNECTIONS = 4
"""Connections that are opened at once: a collected segment cannot be opened again later."""


class Catalog:
    """The catalog of a segment, read by many threads."""

    def __init__(self, path: Path, connections: int = 1) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._free = [open_catalog(path) for _ in range(connections)]

    @contextmanager
    def borrow(self) -> Iterator[sqlite3.Connection]:
        """A connection for this thread alone."""
        with self._lock:
            lent = self._free.pop() if self._free else None
        lent = lent or open_catalog(self._path)
        try:
            yield lent
        finally:
            with self._lock:
                self._free.append(lent)

    def close(self) -> None:
        """Close all connections; none is lent any more."""
        with self._lock:
            while self._free:
                self._free.pop().close()


class Segment:
    """One segment, opened; not to be used by anybody who does not hold it."""

    def __init__(self, folder: Path, digest: str, connections: int = 1) -> None:
        self.folder, self.digest = folder, digest
        self.ids: Rows = np.load(folder / "ids.npy")
        self.vectors: ann.Vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        self.index = ann.open_index(folder, self.vectors)
        self.catalog = Catalog(folder / CATALOG, connections)
        self._users, self._lock = 0, threading.Lock()

    def hold(self) -> Segment:
        """One more uses it."""
        with self._lock:
            self._users += 1
        return self

    def let_go(self) -> None:
        """One less; the last one closes it."""
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            self.catalog.close()

    @cached_property
    def quality(self) -> ann.Quality:
        """Kind of the index, and what it finds."""
        return ann.quality_of(self.folder)

    @cached_property
    def _order(self) -> Rows | None:
        """[N] rows by id; None where they are so already, as our stages write them."""
        return None if (np.diff(self.ids) > 0).all() else np.argsort(self.ids)

    def rows_of(self, ids: Rows) -> Rows:
        """[M] rows of those of ``ids`` that are here."""
        order = self._order
        at = np.searchsorted(self.ids, ids, sorter=order)
        inside = at < len(self.ids)
        at, ids = at[inside], ids[inside]
        rows: Rows = at if order is None else order[at]
        found: Rows = rows[self.ids[rows] == ids]
        return found

    def row(self, picture: int) -> int | None:
        """The row of a picture; None where it is not here."""
        rows = self.rows_of(np.array([picture], np.int64))
        return int(rows[0]) if len(rows) else None

    def check(self, dimension: int) -> None:
        """Refuse a segment whose files do not fit each other; FormatError."""
        with self.catalog.borrow() as db:
            (pictures,) = db.execute("SELECT count(*) FROM pictures").fetchone()
        rows = {len(self.ids), len(self.vectors), int(self.index.ntotal), pictures}
        widths = {dimension, int(self.index.d), *self.vectors.shape[1:]}
        if len(rows) > 1 or len(widths) > 1:
            raise FormatError(
                f"{self.folder} is damaged: its files tell of {sorted(rows)} pictures and "
                f"{sorted(widths)} dimensions.",
                f"{self.folder} 已损坏：其中各文件的图片数为 {sorted(rows)}，"
                f"维数为 {sorted(widths)}。",
            )
