"""What is known of each file of a library: a catalog of everything, and what it was known by.

It is an ordinary catalog (so that segments are cut out of it as everywhere) with some more tables:
each file with its mark, the model that pictures were embedded by, what is damaged, what is being
decoded, which thumbnails nobody needs, and the fingerprints by which near-duplicates are found.

A file is waiting (found, not read yet), a picture, damaged, or unreadable. While any is waiting,
what is gone stays in ``paths``: a file that was renamed is found under its old name until it was
read under its new one. It may be lost at any time: it is made again from the current release.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wentu import splits
from wentu.catalog import free_id
from wentu.formats import CATALOG, create_catalog, id_of, open_catalog
from wentu.pictures import Fingerprint
from wentu.store import Release, Store

WAITING, PICTURE, DAMAGED, UNREADABLE = range(4)
IN_RELEASES = (("pictures", "id"), ("paths", "picture"), ("moments", "picture"))
"""Tables with rows of pictures that segments have too, and the column of the picture's id."""
ONLY_HERE = ("prints", "bands")
"""Tables with rows of pictures that segments do not have; their column is ``picture``."""
OF_PICTURES = ("moments", *ONLY_HERE)
"""Tables that lose a picture's rows with it; their column is ``picture``."""
CRASHES = 2
"""Ends of the process after which the file that was being decoded is given up: the first time among
others, the second time alone."""
_TABLES = """
CREATE TABLE files (path TEXT PRIMARY KEY, mark TEXT NOT NULL, changed INTEGER NOT NULL,
    size INTEGER NOT NULL, state INTEGER NOT NULL, picture INTEGER) WITHOUT ROWID;
CREATE TABLE damaged (digest BLOB PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE trying (path TEXT PRIMARY KEY, crashes INTEGER NOT NULL, now INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE TABLE gone (picture INTEGER PRIMARY KEY, since REAL NOT NULL);
CREATE TABLE prints (picture INTEGER PRIMARY KEY, hash TEXT, mini BLOB);
CREATE TABLE bands (band INTEGER, key INTEGER, picture INTEGER);
CREATE TABLE embedded_by (model TEXT NOT NULL);
CREATE INDEX files_by_mark ON files (mark);
CREATE INDEX files_by_state ON files (state, changed);
CREATE INDEX files_by_picture ON files (picture);
CREATE INDEX pictures_by_digest ON pictures (digest);
CREATE INDEX band_keys ON bands (band, key);
CREATE INDEX bands_by_picture ON bands (picture);
"""


class State:
    """An open state; used by the one process that follows the library."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = NORMAL")

    def close(self) -> None:
        """Close the database; what was committed is in it."""
        self.db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of what is done within, or nothing of it."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield self.db
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    def one(self, query: str, *values: object) -> int:
        """The number that a query is answered with."""
        return int(self.db.execute(query, values).fetchone()[0])

    def embedded_by(self) -> str:
        """Digest of the model that the pictures were embedded by."""
        return str(self.db.execute("SELECT model FROM embedded_by").fetchone()[0])

    def nameless(self) -> npt.NDArray[np.int64]:
        """Pictures whose files hold something else by now, or will be dropped."""
        query = "SELECT id FROM pictures WHERE id NOT IN (SELECT picture FROM paths)"
        return np.array([picture for (picture,) in self.db.execute(query)], np.int64)

    def count(self, state: int) -> int:
        """How many files are in that state."""
        return self.one("SELECT count(*) FROM files WHERE state = ?", state)

    # --- reading files -------------------------------------------------------------------------

    def waiting(self, most: int) -> list[tuple[str, str, int]]:
        """(path, mark, bytes) of the next files to read, the newest first.

        The newest first: what somebody has just put there is found soon, also while many wait. One
        of those that a crash may have been about comes alone, after all others.
        """
        query = (
            "SELECT f.path, mark, size FROM files f LEFT JOIN trying t ON t.path = f.path WHERE "
            f"state = {WAITING} AND crashes IS {{}} NULL ORDER BY changed DESC, f.path LIMIT ?"
        )
        found = self.db.execute(query.format(""), (most,)).fetchall()
        found = found or self.db.execute(query.format("NOT"), (1,)).fetchall()
        return [(path, mark, size) for path, mark, size in found]

    @contextmanager
    def trying(self, paths: list[str]) -> Iterator[None]:
        """Remember what is being decoded, should it end this process."""
        rows = [(each,) for each in paths]
        with self.transaction() as db:
            db.executemany("INSERT OR IGNORE INTO trying VALUES (?, 0, 0)", rows)
            db.executemany("UPDATE trying SET now = 1 WHERE path = ?", rows)
        try:
            yield
        finally:  # which is not reached where the process ends
            self.db.executemany("DELETE FROM trying WHERE path = ?", rows)

    def after_end(self, crashed: bool) -> list[str]:
        """What was being decoded when the last process ended; paths that are given up.

        Args:
            crashed: it ended by itself, so one of them may be to blame; else none is.
        """
        with self.transaction() as db:
            if not crashed:
                db.execute("DELETE FROM trying")
                return []
            db.execute("UPDATE trying SET crashes = crashes + 1 WHERE now")
            db.execute("UPDATE trying SET now = 0")
            query = "SELECT path FROM trying WHERE crashes >= ?"
            bad = [path for (path,) in db.execute(query, (CRASHES,))]
            for path in bad:
                db.execute(f"UPDATE files SET state = {DAMAGED} WHERE path = ?", (path,))
                db.execute("DELETE FROM trying WHERE path = ?", (path,))
            return bad

    def known(self, digest: bytes) -> int | None:
        """The id of the picture with these bytes."""
        row = self.db.execute("SELECT id FROM pictures WHERE digest = ?", (digest,)).fetchone()
        return int(row[0]) if row else None

    def is_damaged(self, digest: bytes) -> bool:
        """Could these bytes not be decoded when they were first met?"""
        row = self.db.execute("SELECT 1 FROM damaged WHERE digest = ?", (digest,)).fetchone()
        return row is not None

    def add_picture(
        self,
        digest: bytes,
        size: int,
        shape: tuple[int, int],
        print_: Fingerprint,
        taken: str | None,
    ) -> int:
        """A picture that was not there before; its id."""
        picture = free_id(self.db, id_of(digest))
        group = splits.group_of(self.db, picture, print_)
        self.db.execute(
            "INSERT INTO pictures (id, digest, width, height, bytes, grp) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (picture, digest, *shape, size, group),
        )
        today = time.strftime("%Y-%m-%d", time.gmtime())
        self.db.execute("INSERT OR REPLACE INTO moments VALUES (?, ?, ?)", (picture, taken, today))
        return picture

    def settle_file(self, path: str, mark: str, state: int, picture: int | None = None) -> None:
        """What came of reading a file; nothing where it is another one by now."""
        done = self.db.execute(
            "UPDATE files SET state = ?, picture = ? WHERE path = ? AND mark = ?",
            (state, picture, path, mark),
        ).rowcount
        if done and picture is not None:
            self.db.execute("INSERT OR REPLACE INTO paths VALUES (?, ?)", (path, picture))

    # --- what is no more -----------------------------------------------------------------------

    def drop_gone(self) -> None:
        """Forget names and pictures that are no more, if no file waits that may be one of them."""
        if self.count(WAITING):
            return
        with self.transaction() as db:
            db.execute(
                "DELETE FROM paths WHERE NOT EXISTS (SELECT 1 FROM files f WHERE "
                f"f.path = paths.path AND (f.picture = paths.picture OR f.state = {UNREADABLE}))"
            )
            nameless = "id NOT IN (SELECT picture FROM paths)"
            db.execute(
                f"INSERT OR REPLACE INTO gone SELECT id, ? FROM pictures WHERE {nameless}",
                (time.time(),),
            )
            db.execute(f"DELETE FROM pictures WHERE {nameless}")
            for table in OF_PICTURES:
                db.execute(f"DELETE FROM {table} WHERE picture NOT IN (SELECT id FROM pictures)")

    def gone(self, before: float) -> list[int]:
        """Pictures that are no more since then at least (Unix time)."""
        self.db.execute("DELETE FROM gone WHERE picture IN (SELECT id FROM pictures)")
        query = "SELECT picture FROM gone WHERE since <= ?"
        return [picture for (picture,) in self.db.execute(query, (before,))]

    def cleared(self, pictures: Iterable[int]) -> None:
        """Nothing is left of these."""
        with self.transaction() as db:
            db.executemany("DELETE FROM gone WHERE picture = ?", ((each,) for each in pictures))

    def forget(self, pictures: Iterable[int]) -> None:
        """Read these pictures' files again: their vectors were lost."""
        rows = [(each,) for each in pictures]
        with self.transaction() as db:
            db.executemany("UPDATE files SET state = 0, picture = NULL WHERE picture = ?", rows)
            for table, column in (*IN_RELEASES, *((each, "picture") for each in ONLY_HERE)):
                db.executemany(f"DELETE FROM {table} WHERE {column} = ?", rows)

    def try_again(self) -> None:
        """Read again what could not be opened."""
        self.db.execute(f"UPDATE files SET state = {WAITING} WHERE state = {UNREADABLE}")


def open_state(path: Path, store: Store, release: Release, model: str) -> State:
    """The state there, or a new one: what the release knows, with every file still to be read.

    One of another model than ``model`` (a digest) is none: it knows of pictures only as far as that
    one had embedded them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name("new.sqlite")
    remove(fresh)
    with closing(create_catalog(fresh)) as db:
        db.executescript(_TABLES)
        db.execute("INSERT INTO embedded_by VALUES (?)", (model,))
        db.commit()
        expected = _schema(db)
    if path.exists():
        with suppress(sqlite3.DatabaseError), closing(State(path)) as state:
            sound = state.db.execute("PRAGMA quick_check").fetchone()[0] == "ok"
            if sound and _schema(state.db) == expected and state.embedded_by() == model:
                remove(fresh)
                return State(path)
    _take_over(fresh, store, release)
    remove(path)
    fresh.rename(path)
    return State(path)


def remove(path: Path) -> None:
    """A database with what SQLite keeps beside it."""
    for end in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + end).unlink(missing_ok=True)


def _schema(db: sqlite3.Connection) -> list[tuple[str, str]]:
    query = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"
    return [(name, sql) for name, sql in db.execute(query)]


def _take_over(path: Path, store: Store, release: Release) -> None:
    """Pictures and names of a release: then nothing needs to be decoded or embedded again."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for segment in release.segments:
            catalog = store.segment(segment.digest) / CATALOG
            with closing(open_catalog(catalog)):  # refuses what is damaged
                db.execute("ATTACH ? AS old", (str(catalog),))
            db.execute("CREATE TEMP TABLE dead (id INTEGER PRIMARY KEY)")
            db.executemany("INSERT INTO dead VALUES (?)", ((each,) for each in segment.tombstones))
            for table, column in IN_RELEASES:
                names = ", ".join(row[1] for row in db.execute(f"PRAGMA old.table_info({table})"))
                if not names:  # segments of earlier versions have no moments
                    continue
                db.execute(
                    f"INSERT OR REPLACE INTO main.{table} ({names}) SELECT {names} FROM "
                    f"old.{table} WHERE {column} NOT IN (SELECT id FROM dead)"
                )
            db.execute("DROP TABLE dead")
            db.execute("DETACH old")
