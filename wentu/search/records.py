"""What the catalogs of a release say: of pictures, and of its folders."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from wentu.formats import has_moments
from wentu.search.query import Hit

MOST_FOLDERS = 500
_TOP = "substr(path, 1, instr(path, '/') - 1)"
_REST = "substr(path, instr(path, '/') + 1)"
_SECOND = f"substr(path, 1, instr(path, '/') + instr({_REST}, '/') - 1)"


def records(catalog: sqlite3.Connection, pictures: Sequence[int]) -> dict[int, Hit]:
    """What a catalog says of each picture that it knows; with a score of 0."""
    those = "IN (SELECT value FROM json_each(?))"
    given = (json.dumps(list(pictures)),)
    paths, captions = defaultdict[int, list[str]](list), defaultdict[int, list[str]](list)
    query = f"SELECT picture, path FROM paths WHERE picture {those} ORDER BY picture, path"
    for picture, path in catalog.execute(query, given):
        paths[picture].append(path)
    query = (
        "SELECT c.picture, coalesce(c.original, t.text) FROM captions c "
        f"JOIN texts t ON t.id = c.text WHERE c.picture {those} ORDER BY c.picture, t.id"
    )
    for picture, text in catalog.execute(query, given):
        captions[picture].append(text)
    moments: dict[int, tuple[str | None, str | None]] = {}
    if has_moments(catalog):
        query = f"SELECT picture, taken, added FROM moments WHERE picture {those}"
        moments = {row[0]: row[1:] for row in catalog.execute(query, given)}
    query = f"SELECT id, own_id, width, height, bytes FROM pictures WHERE id {those}"
    found = {}
    for picture, own_id, width, height, size in catalog.execute(query, given):
        taken, added = moments.get(picture, (None, None))
        found[picture] = Hit(
            id=picture,
            score=0.0,
            paths=tuple(paths[picture]),
            captions=tuple(captions[picture]),
            own_id=own_id,
            width=width,
            height=height,
            bytes=size,
            taken=taken,
            added=added,
        )
    return found


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
