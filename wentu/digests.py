"""Digests of a collection's files, so that what did not change is read once.

A file is known by its mark: size, time and inode here, size and ETag in a bucket. What this machine
has read it keeps in SQLite; for stores in a bucket the marks lie in the store too, beside each
listing, since on a cluster each run begins on a machine that knows nothing.
"""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from wentu.collection import Collection, Found
from wentu.formats import batched
from wentu.listing import Listing, Row, pictures_of
from wentu.storage import is_remote
from wentu.store import Store

FILE = "work/digests.sqlite"
"""Where a store keeps them, or this machine what it has of a store in a bucket."""
PART = 256
"""Files looked up at once."""
PARTS, READ_AHEAD = 128, 256
"""Of these so many parts are held while the first waits for files that are being read, so that a
few new ones among many old are read side by side; fewer where so many files are being read."""
_Reading = Callable[[], str]
_Part = tuple[list[bytes], list[Found], list[str | _Reading]]


def learn_marks(collection: Collection, store: Store) -> None:
    """What another machine has read: on a cluster each run begins on a machine that knows nothing.

    Only of stores in a bucket; one in a folder holds the cache itself.
    """
    if not is_remote(store.place):
        return
    with closing(DigestCache.of(store)) as known:
        if known.knows(collection.top):
            return
        current, last = store.current(), store.last_attempt()
        digests = {last.inventory} if last else set()
        digests |= {current[1].inventory} if current else set()
        for digest in digests:
            known.learn(collection.top, store.marks(digest))


def share_marks(collection: Collection, store: Store, listed: Listing) -> None:
    """Keep in the store what each file of a listing was known by when it was read."""
    if is_remote(store.place):
        with closing(DigestCache.of(store)) as known:
            rows = known.rows(collection.top, (row[1] for row in pictures_of(listed)))
            store.put_marks(listed.digest, rows)


class DigestCache:
    """Digests of files by path and mark, so that an unchanged file is read once."""

    @classmethod
    def of(cls, store: Store) -> DigestCache:
        """This machine's, of the store."""
        return cls(store.storage.home / FILE)

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=60, isolation_level=None)  # kept at once
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS seen (path TEXT PRIMARY KEY, stat TEXT, "
            "digest TEXT) WITHOUT ROWID"
        )

    def digests(self, collection: Collection, found: Iterable[Found]) -> Iterator[list[Any]]:
        """Rows ["picture", path, size, hex BLAKE2b-256], in the order of ``found``."""

        def read(picture: Found) -> str:
            try:
                return collection.digest(picture.path) if picture.mark else ""
            except OSError:  # a dangling link, no permission: pairs sets it aside with the reason
                return ""

        pool = ThreadPoolExecutor(collection.parallel)
        parts: deque[_Part] = deque()
        reading = 0
        try:
            for part in batched(found, PART):
                paths = [os.fsencode(f"{collection.top}/{each.path}") for each in part]
                digests: list[str | _Reading] = []
                for each, digest in zip(part, self._known(paths, part), strict=True):
                    if digest is not None:
                        digests.append(digest)
                        continue
                    reading += 1
                    ahead = collection.parallel > 1
                    digests.append(pool.submit(read, each).result if ahead else partial(read, each))
                parts.append((paths, part, digests))
                while reading > READ_AHEAD or len(parts) > PARTS:
                    reading -= sum(not isinstance(digest, str) for digest in parts[0][2])
                    yield from self._rows(*parts.popleft())
            while parts:
                yield from self._rows(*parts.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _rows(
        self, paths: list[bytes], found: list[Found], digests: list[str | _Reading]
    ) -> Iterator[list[Any]]:
        for path, (name, size, mark), digest in zip(paths, found, digests, strict=True):
            if not isinstance(digest, str):
                digest = digest()
                self._keep(path, mark, digest)
            yield ["picture", name, size if digest else 0, digest]

    def _known(self, paths: list[bytes], found: list[Found]) -> list[str | None]:
        """The digest of each that was seen with the same mark."""
        seen, unseen = self._seen(paths), ("", None)
        told = (seen.get(path, unseen) for path in paths)
        return [
            digest if mark == each.mark else None
            for (mark, digest), each in zip(told, found, strict=True)
        ]

    def _seen(self, paths: list[bytes]) -> dict[bytes, tuple[str, str]]:
        """(mark, digest) of those that it knows.

        Paths come in order, nearly: what lies between the first and the last is read in one go,
        at half the price of looking for each; what lies there besides is gone from the collection.
        """
        query = "SELECT path, stat, digest FROM seen WHERE path BETWEEN ? AND ?"
        wanted = set(paths)
        rows = self._db.execute(query, (min(paths), max(paths)))
        return {path: (mark, digest) for path, mark, digest in rows if path in wanted}

    def _keep(self, path: bytes, mark: str, digest: str) -> None:
        if digest:
            values = (path, mark, digest)
            self._db.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", values)

    def knows(self, top: str) -> bool:
        """Was anything of the collection at ``top`` read by this machine?"""
        within = (os.fsencode(f"{top}/"), os.fsencode(f"{top}0"))  # "0" follows "/"
        query = "SELECT 1 FROM seen WHERE path >= ? AND path < ? LIMIT 1"
        return self._db.execute(query, within).fetchone() is not None

    def learn(self, top: str, rows: Iterable[Row]) -> None:
        """Take over ``rows`` of another machine, if they are of the same collection."""
        rows = iter(rows)
        if next(rows, None) != ["top", top]:
            return
        values = ((os.fsencode(f"{top}/{path}"), mark, digest) for path, mark, digest in rows)
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", values)
        self._db.execute("COMMIT")

    def rows(self, top: str, paths: Iterable[str]) -> Iterator[Row]:
        """For ``learn``: ["top", top], then [path, mark, digest] of those of ``paths`` it knows."""
        yield ["top", top]
        for part in batched(paths, PART):
            seen = self._seen([os.fsencode(f"{top}/{path}") for path in part])
            for path in part:
                row = seen.get(os.fsencode(f"{top}/{path}"))
                if row:
                    yield [path, *row]

    def close(self) -> None:
        """Close the database; everything learned is in it already."""
        self._db.close()
