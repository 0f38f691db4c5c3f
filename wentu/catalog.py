"""Making the catalog: what pictures there are, what is said of them, and what is set aside.

Every picture is decoded once. Everything is kept in tables of the catalog itself, temporary ones
included, so that memory does not grow with the collection.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any

from wentu import pictures as decoder
from wentu import splits
from wentu.collection import Collection
from wentu.formats import batched, id_of, text_id
from wentu.language import pick
from wentu.progress import Reporter

DECODE_AHEAD = 64

Decoded = tuple[str, list[str], int, tuple[int, int], "str | None", "tuple[int, bytes] | str"]


def add_pictures(
    catalog: sqlite3.Connection, source: Collection, listed: Iterable[Any], report: Reporter
) -> None:
    """Decode every picture once; equal files become one picture with several paths.

    Args:
        listed: rows of an inventory. What cannot be read lands in ``rejected``, with its reason.
    """
    splits.prepare(catalog)
    catalog.execute("CREATE TEMP TABLE listed (digest TEXT, path TEXT)")
    catalog.executemany("INSERT INTO listed VALUES (?, ?)", _encodable(catalog, listed))
    # Digest order resolves a clash of ids (different bytes, same 63 bits) the same way every time.
    catalog.execute("CREATE INDEX temp.listed_order ON listed (digest, path)")
    total = catalog.execute("SELECT count(DISTINCT digest) FROM listed").fetchone()[0]
    rows = catalog.execute("SELECT digest, path FROM listed ORDER BY digest, path")
    files = (
        (digest, [path for _, path in same]) for digest, same in groupby(rows, lambda row: row[0])
    )
    work = report.track(decoded(source, files), pick("decoding", "解码"), total)
    for digest, paths, size, shape, taken, outcome in work:
        if isinstance(outcome, str):
            catalog.executemany("INSERT INTO rejected VALUES (?, ?)", [(p, outcome) for p in paths])
            continue
        picture = free_id(catalog, id_of(bytes.fromhex(digest)))
        group = splits.group_of(catalog, picture, outcome)
        catalog.execute("INSERT INTO clusters VALUES (?, ?)", (picture, group))
        catalog.execute(
            "INSERT INTO pictures (id, digest, width, height, bytes, grp) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (picture, bytes.fromhex(digest), *shape, size, group),
        )
        catalog.execute("INSERT INTO moments VALUES (?, ?, NULL)", (picture, taken))
        catalog.executemany("INSERT INTO paths VALUES (?, ?)", [(p, picture) for p in paths])


def note_added(
    catalog: sqlite3.Connection, before: Iterable[tuple[int, str | None]], today: str
) -> None:
    """Say since when each picture is there: since ``before``, (id, day or None), else ``today``.

    Days, not seconds: a stage that is run again gives the same catalog, to the byte.
    """
    catalog.execute("CREATE TEMP TABLE added (picture INTEGER PRIMARY KEY, day TEXT)")
    catalog.executemany("INSERT OR IGNORE INTO added VALUES (?, ?)", before)
    catalog.execute(
        "UPDATE moments SET added = CASE WHEN picture IN (SELECT picture FROM added) "
        "THEN (SELECT day FROM added a WHERE a.picture = moments.picture) ELSE ? END",
        (today,),
    )


def _encodable(catalog: sqlite3.Connection, listed: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """(digest, path) of the pictures listed; names that no database can hold are set aside."""
    reason = pick("its name is not valid UTF-8", "文件名不是合法的 UTF-8")
    for kind, path, _, digest, *_ in listed:
        if kind != "picture":
            continue
        try:
            path.encode()
        except UnicodeEncodeError:
            name = os.fsencode(path).decode("utf-8", "backslashreplace")
            catalog.execute("INSERT INTO rejected VALUES (?, ?)", (name, reason))
        else:
            yield digest, path


def decoded(source: Collection, files: Iterable[tuple[str, list[str]]]) -> Iterator[Decoded]:
    """(digest, paths, bytes, (width, height), when it was taken, fingerprint or reason of refusal)
    of each file."""

    def one(item: tuple[str, list[str]]) -> Decoded:
        digest, paths = item
        try:
            data = source.read(paths[0])
            if hashlib.blake2b(data, digest_size=32).hexdigest() != digest:
                changed = pick("changed during the run", "运行期间被修改")
                return digest, paths, 0, (0, 0), None, changed
            picture = decoder.decode(data)
            taken, print_ = decoder.taken(data), decoder.fingerprint(picture)
            return digest, paths, len(data), picture.size, taken, print_
        except (decoder.PictureError, OSError) as error:
            return digest, paths, 0, (0, 0), None, str(error)

    with ThreadPoolExecutor(workers(source)) as pool:
        for part in batched(files, DECODE_AHEAD):  # bounds how many decoded pictures are alive
            yield from pool.map(one, part)


def workers(source: Collection) -> int:
    """Threads that keep this machine's cores busy while some wait for bytes."""
    return max(source.parallel, min(32, (os.cpu_count() or 1) + 4))


def free_id(catalog: sqlite3.Connection, wanted: int) -> int:
    """``wanted``, or the next id that no other picture has."""
    while catalog.execute("SELECT 1 FROM pictures WHERE id = ?", (wanted,)).fetchone():
        wanted = (wanted + 1) & (2**63 - 1)
    return wanted


def attach(
    catalog: sqlite3.Connection,
    path: str,
    texts: Iterable[tuple[str, str | None]],
    split: str | None = None,
    own_id: str = "",
) -> None:
    """Say (text, what the user wrote if that differs) of the picture at ``path``.

    Nothing happens where the picture was set aside as unreadable.
    """
    row = catalog.execute("SELECT picture FROM paths WHERE path = ?", (path,)).fetchone()
    if row is None:
        return
    for text, original in texts:
        key = text_id(text)
        catalog.execute("INSERT OR IGNORE INTO texts VALUES (?, ?)", (key, text))
        catalog.execute("INSERT OR IGNORE INTO captions VALUES (?, ?, ?)", (row[0], key, original))
    if split:
        catalog.execute("UPDATE pictures SET split = ? WHERE id = ?", (split, row[0]))
    if own_id:
        catalog.execute("UPDATE pictures SET own_id = ? WHERE id = ?", (own_id, row[0]))


def count(catalog: sqlite3.Connection) -> tuple[dict[str, int], dict[str, int]]:
    """(headline counts, details) of what the catalog holds."""

    def one(query: str) -> int:
        return int(catalog.execute(query).fetchone()[0])

    counts = {
        "pictures": one("SELECT count(*) FROM pictures"),
        "captions": one("SELECT count(*) FROM texts"),
        **{
            split: one(f"SELECT count(*) FROM pictures WHERE split = '{split}'")
            for split in ("train", "valid", "test")
        },
        "rejected": one("SELECT count(*) FROM rejected"),
    }
    details = {
        "duplicate_files": one("SELECT count(*) FROM paths") - counts["pictures"],
        "near_duplicates": one("SELECT count(*) FROM clusters WHERE picture <> cluster"),
        "near_duplicates_in_several_splits": one(
            "SELECT count(*) FROM pictures a JOIN clusters b ON b.picture = a.id "
            "JOIN pictures c ON c.id = b.cluster WHERE a.split <> c.split"
        ),
        "without_caption": one(
            "SELECT count(*) FROM pictures WHERE id NOT IN (SELECT picture FROM captions)"
        ),
        "captions_on_several_pictures": one(
            "SELECT count(*) FROM (SELECT text FROM captions GROUP BY text HAVING count(*) > 1)"
        ),
        "captions_converted": one("SELECT count(*) FROM captions WHERE original IS NOT NULL"),
    }
    return counts, details


class PictureFiles:
    """A picture's bytes, by its id."""

    def __init__(self, db: sqlite3.Connection, collection: Collection) -> None:
        self.db, self.collection = db, collection

    def find(self, picture: int) -> tuple[str, bytes]:
        """(one of its paths, the digest of its bytes); not for several threads at once."""
        query = (
            "SELECT min(f.path), p.digest FROM paths f JOIN pictures p ON p.id = f.picture "
            "WHERE p.id = ?"
        )
        path, digest = self.db.execute(query, (picture,)).fetchone()
        return str(path), bytes(digest)
