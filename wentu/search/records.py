"""What the catalogs of a release say: of a picture, and of its folders."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable

from wentu.search.query import Hit

MOST_FOLDERS = 500
_TOP = "substr(path, 1, instr(path, '/') - 1)"
_REST = "substr(path, instr(path, '/') + 1)"
_SECOND = f"substr(path, 1, instr(path, '/') + instr({_REST}, '/') - 1)"


def has_moments(catalog: sqlite3.Connection) -> bool:
    """Does it say when pictures were taken and added? Those of earlier versions do not."""
    query = "SELECT 1 FROM sqlite_master WHERE name = 'moments'"
    return catalog.execute(query).fetchone() is not None


def record(catalog: sqlite3.Connection, picture: int, score: float) -> Hit | None:
    """What a catalog says of a picture; None where it says nothing."""
    paths = _column(catalog, "SELECT path FROM paths WHERE picture = ? ORDER BY path", picture)
    if not paths:
        return None
    query = (
        "SELECT coalesce(c.original, t.text) FROM captions c "
        "JOIN texts t ON t.id = c.text WHERE c.picture = ? ORDER BY t.id"
    )
    captions = _column(catalog, query, picture)
    query = "SELECT own_id, width, height, bytes FROM pictures WHERE id = ?"
    own_id, width, height, size = catalog.execute(query, (picture,)).fetchone()
    moments = None
    if has_moments(catalog):
        query = "SELECT taken, added FROM moments WHERE picture = ?"
        moments = catalog.execute(query, (picture,)).fetchone()
    taken, added = moments or (None, None)
    return Hit(
        id=picture,
        score=score,
        paths=paths,
        captions=captions,
        own_id=own_id,
        width=width,
        height=height,
        bytes=size,
        taken=taken,
        added=added,
    )


def _column(catalog: sqlite3.Connection, query: str, value: int) -> tuple[str, ...]:
    return tuple(row[0] for row in catalog.execute(query, (value,)))


def count_folders(catalog: sqlite3.Connection, dead: Iterable[int]) -> Counter[str]:
    """Folder, at the first and the second level -> pictures below it, without the dead ones."""
    found: Counter[str] = Counter()
    for folder, where in (
        (_TOP, "instr(path, '/') > 0"),
        (_SECOND, f"instr(path, '/') > 0 AND instr({_REST}, '/') > 0"),
    ):
        query = f"SELECT {folder}, count(DISTINCT picture) FROM paths WHERE {where} GROUP BY 1"
        found.update(dict(catalog.execute(query).fetchall()))
    for picture in dead:
        gone: set[str] = set()
        for path in _column(catalog, "SELECT path FROM paths WHERE picture = ?", picture):
            parts = path.split("/")[:-1][:2]
            gone.update("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))
        found.subtract(gone)
    return found


def shown_folders(counted: Counter[str], most: int = MOST_FOLDERS) -> list[tuple[str, int]]:
    """(folder, pictures) by name; of too many, those of the upper level and the larger ones."""
    there = [(folder, count) for folder, count in counted.items() if count > 0]
    there.sort(key=lambda row: ("/" in row[0], -row[1], row[0]))
    return sorted(there[:most])
