"""What is known of each file of a library: a catalog of everything, and what it was known by.

It is an ordinary catalog (so that segments are cut out of it as everywhere) with four more tables:
each file with its mark, what is damaged, and the fingerprints by which near-duplicates are found.

A file is waiting (found, not read yet), a picture, damaged, or unreadable. While any is waiting,
what is gone stays in ``paths``: a file that was renamed is found under its old name until it was
read under its new one. It may be lost at any time: it is made again from the current release.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from wentu import splits
from wentu.catalog import free_id
from wentu.formats import CATALOG, create_catalog, id_of, open_catalog
from wentu.pictures import Fingerprint
from wentu.store import Release, Store

WAITING, PICTURE, DAMAGED, UNREADABLE = range(4)
_TABLES = """
CREATE TABLE files (path TEXT PRIMARY KEY, mark TEXT NOT NULL, changed INTEGER NOT NULL,
    size INTEGER NOT NULL, state INTEGER NOT NULL, picture INTEGER) WITHOUT ROWID;
CREATE TABLE damaged (digest BLOB PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE prints (picture INTEGER PRIMARY KEY, hash TEXT, mini BLOB);
CREATE TABLE bands (band INTEGER, key INTEGER, picture INTEGER);
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

    def count(self, state: int) -> int:
        """How many files are in that state."""
        return self.one("SELECT count(*) FROM files WHERE state = ?", state)

    # --- reading files -------------------------------------------------------------------------

    def waiting(self, most: int, most_bytes: int) -> list[tuple[str, str]]:
        """(path, mark) of the next files to read, the newest first; at least one if there is any.

        The newest first: what somebody has just put there is found soon, also while many wait.
        """
        query = (
            "SELECT path, mark, size FROM files WHERE state = 0 ORDER BY changed DESC, path LIMIT ?"
        )
        found: list[tuple[str, str]] = []
        total = 0
        for path, mark, size in self.db.execute(query, (most,)).fetchall():
            total += size
            if found and total > most_bytes:
                break
            found.append((path, mark))
        return found

    def known(self, digest: bytes) -> int | None:
        """The id of the picture with these bytes."""
        row = self.db.execute("SELECT id FROM pictures WHERE digest = ?", (digest,)).fetchone()
        return int(row[0]) if row else None

    def is_damaged(self, digest: bytes) -> bool:
        """Could these bytes not be decoded when they were first met?"""
        row = self.db.execute("SELECT 1 FROM damaged WHERE digest = ?", (digest,)).fetchone()
        return row is not None

    def add_picture(
        self, digest: bytes, size: int, shape: tuple[int, int], print_: Fingerprint
    ) -> int:
        """A picture that was not there before; its id."""
        picture = free_id(self.db, id_of(digest))
        group = splits.group_of(self.db, picture, print_)
        self.db.execute(
            "INSERT INTO pictures (id, digest, width, height, bytes, grp) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (picture, digest, *shape, size, group),
        )
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
            db.execute("DELETE FROM pictures WHERE id NOT IN (SELECT picture FROM paths)")
            for table in ("prints", "bands"):
                db.execute(f"DELETE FROM {table} WHERE picture NOT IN (SELECT id FROM pictures)")

    def forget(self, pictures: Iterable[int]) -> None:
        """Read these pictures' files again: their vectors were lost."""
        rows = [(each,) for each in pictures]
        with self.transaction() as db:
            db.executemany("UPDATE files SET state = 0, picture = NULL WHERE picture = ?", rows)
            db.executemany("DELETE FROM paths WHERE picture = ?", rows)
            db.executemany("DELETE FROM pictures WHERE id = ?", rows)
            for table in ("prints", "bands"):
                db.executemany(f"DELETE FROM {table} WHERE picture = ?", rows)

    def try_again(self) -> None:
        """Read again what could not be opened."""
        self.db.execute(f"UPDATE files SET state = {WAITING} WHERE state = {UNREADABLE}")


def open_state(path: Path, store: Store, release: Release) -> State:
    """The state there, or a new one: what the release knows, with every file still to be read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name("new.sqlite")
    remove(fresh)
    with closing(create_catalog(fresh)) as db:
        db.executescript(_TABLES)
        expected = _schema(db)
    if path.exists():
        with suppress(sqlite3.DatabaseError), closing(State(path)) as state:
            sound = state.db.execute("PRAGMA quick_check").fetchone()[0] == "ok"
            if sound and _schema(state.db) == expected:
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
            for table, column in (("pictures", "id"), ("paths", "picture")):
                names = ", ".join(row[1] for row in db.execute(f"PRAGMA old.table_info({table})"))
                db.execute(
                    f"INSERT OR REPLACE INTO main.{table} ({names}) SELECT {names} FROM "
                    f"old.{table} WHERE {column} NOT IN (SELECT id FROM dead)"
                )
            db.execute("DROP TABLE dead")
            db.execute("DETACH old")
