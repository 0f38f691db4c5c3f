"""Which split a picture belongs to: by group, by a hash of the group, and for good.

A group is a cluster of pictures that are the same or nearly so (bursts, resized copies), so that no
copy of a training picture is ever tested on. What a picture was once given is kept in the store:
it never moves, also as the collection grows. The user's own split files win.

Everything is looked up in tables beside the catalog, so memory does not grow with the pictures.
"""

from __future__ import annotations

import hashlib
import sqlite3
from typing import Any

from wentu import pictures as decoder
from wentu.store import Store

_TABLES = """
CREATE TEMP TABLE known (picture INTEGER PRIMARY KEY, grp INTEGER, split TEXT);
CREATE TEMP TABLE captioned (picture INTEGER PRIMARY KEY, cluster INTEGER, own TEXT);
CREATE TEMP TABLE settled (cluster INTEGER PRIMARY KEY, split TEXT);
CREATE TEMP TABLE groups (cluster INTEGER, split TEXT, grp INTEGER, PRIMARY KEY (cluster, split));
CREATE TEMP TABLE fresh (picture INTEGER PRIMARY KEY, grp INTEGER, split TEXT);
INSERT INTO captioned SELECT id, grp, split FROM pictures
    WHERE id IN (SELECT picture FROM captions);
"""
# A cluster goes by what any of its pictures was given before, else by the user's files. Where
# these part what looks alike, they win: each side is then a group of its own, and the report
# counts them.
_SETTLE = """
INSERT OR REPLACE INTO settled SELECT cluster, own FROM captioned
    WHERE own IN ('valid', 'test') ORDER BY picture;
INSERT OR REPLACE INTO settled SELECT c.cluster, k.split FROM captioned c
    JOIN known k ON k.picture = c.picture ORDER BY c.picture;
INSERT OR REPLACE INTO groups SELECT c.cluster, k.split, k.grp FROM captioned c
    JOIN known k ON k.picture = c.picture ORDER BY c.picture;
"""


def prepare(catalog: sqlite3.Connection) -> None:
    """The temporary tables that ``group_of`` keeps in a catalog that is being made."""
    catalog.execute("CREATE TEMP TABLE bands (band INTEGER, key INTEGER, picture INTEGER)")
    catalog.execute("CREATE INDEX temp.band_keys ON bands (band, key)")
    catalog.execute("PRAGMA temp.cache_size = -256")  # there is something to set it of only now
    catalog.execute("CREATE TEMP TABLE prints (picture INTEGER PRIMARY KEY, hash TEXT, mini BLOB)")
    catalog.execute("CREATE TEMP TABLE clusters (picture INTEGER PRIMARY KEY, cluster INTEGER)")


def group_of(catalog: sqlite3.Connection, picture: int, print_: tuple[int, bytes]) -> int:
    """The group of a nearly equal picture that is there already, else a new one.

    Fingerprints within 3 bits share one of four 16-bit bands (pigeonhole), so only those that do
    are compared; at most 200 of them, which bounds the work on collections of flat pictures.
    """
    value, mini = print_
    bands = [(band, value >> (16 * band) & 0xFFFF) for band in range(4)]
    for band in bands:
        query = (
            "SELECT p.picture, p.hash, p.mini, c.grp FROM bands b JOIN prints p ON "
            "p.picture = b.picture JOIN pictures c ON c.id = p.picture "
            "WHERE b.band = ? AND b.key = ? LIMIT 200"
        )
        for _, other, other_mini, group in catalog.execute(query, band):
            if decoder.near_duplicate((value, mini), (int(other), other_mini)):
                return int(group)
    catalog.execute("INSERT INTO prints VALUES (?, ?, ?)", (picture, str(value), mini))
    catalog.executemany("INSERT INTO bands VALUES (?, ?, ?)", [(*b, picture) for b in bands])
    return picture


def assign(
    catalog: sqlite3.Connection, store: Store, valid_fraction: float, test_fraction: float
) -> None:
    """Give every captioned picture a split: the user's, else what it had, else its group's hash."""
    named = {row[0] for row in catalog.execute("SELECT DISTINCT split FROM pictures")} - {None}
    fractions = {
        "test": 0.0 if "test" in named else test_fraction,
        "valid": 0.0 if "valid" in named else valid_fraction,
    }
    catalog.executescript(_TABLES)
    catalog.executemany("INSERT OR REPLACE INTO known VALUES (?, ?, ?)", store.assignments())
    catalog.executescript(_SETTLE)
    query = (
        "SELECT c.picture, c.cluster, c.own, k.grp, k.split FROM captioned c "
        "LEFT JOIN known k ON k.picture = c.picture ORDER BY c.picture"
    )
    for picture, cluster, own, known_group, known_split in catalog.execute(query):
        drawn = known_split or _one(
            catalog, "SELECT split FROM settled WHERE cluster = ?", (cluster,)
        )
        split = choose(own, drawn or by_hash(cluster, fractions), fractions)
        catalog.execute("INSERT OR IGNORE INTO settled VALUES (?, ?)", (cluster, split))
        catalog.execute("INSERT OR IGNORE INTO groups VALUES (?, ?, ?)", (cluster, split, picture))
        group = _one(
            catalog, "SELECT grp FROM groups WHERE cluster = ? AND split = ?", (cluster, split)
        )
        if (known_group, known_split) != (group, split):
            catalog.execute("INSERT INTO fresh VALUES (?, ?, ?)", (picture, group, split))
        catalog.execute(
            "UPDATE pictures SET split = ?, grp = ? WHERE id = ?", (split, group, picture)
        )
    if _one(catalog, "SELECT 1 FROM fresh LIMIT 1", ()):
        store.add_assignments(lambda: catalog.execute("SELECT * FROM fresh ORDER BY picture"))


def _one(catalog: sqlite3.Connection, query: str, values: tuple[int | str, ...]) -> Any:
    row = catalog.execute(query, values).fetchone()
    return row[0] if row else None


def choose(own: str | None, drawn: str, fractions: dict[str, float]) -> str:
    """The user's split; but a split that their files lack is drawn from their training pictures."""
    if own is None or (own == "train" and fractions.get(drawn, 0.0) > 0):
        return drawn
    return own


def by_hash(group: int, fractions: dict[str, float]) -> str:
    """test, valid or train for a group, by its hash: the same wherever and whenever it is asked."""
    digest = hashlib.blake2b(group.to_bytes(8, "big"), digest_size=8, person=b"wentu-split")
    point = int.from_bytes(digest.digest(), "big") / 2**64
    if point < fractions["test"]:
        return "test"
    return "valid" if point < fractions["test"] + fractions["valid"] else "train"
