"""From a row of captions to the path of a picture in the collection, with the paths on disk."""

from __future__ import annotations

import os
import sqlite3
import unicodedata
from collections.abc import Iterator

from wentu.captions.places import caption_files
from wentu.captions.rows import Row
from wentu.storage import REMOTE

_KNOWN = (
    "SELECT path FROM paths WHERE path = :p UNION ALL SELECT path FROM rejected WHERE path = :p"
)
_BY_NAME = (
    "DROP TABLE IF EXISTS temp.found_by_name",
    "CREATE TEMP TABLE found_by_name AS "
    "SELECT path, folded(path) AS whole, folded_name(path) AS name "
    "FROM (SELECT path FROM main.paths UNION ALL SELECT path FROM main.rejected)",
    "CREATE INDEX temp.found_by_whole ON found_by_name (whole)",
    "CREATE INDEX temp.found_by_base ON found_by_name (name)",
)
_BY_DIGEST = (
    "DROP TABLE IF EXISTS temp.found_by_digest",
    "CREATE TEMP TABLE found_by_digest (digest BLOB PRIMARY KEY, path TEXT) WITHOUT ROWID",
    "INSERT OR IGNORE INTO temp.found_by_digest SELECT p.digest, min(f.path) "
    "FROM main.pictures p JOIN main.paths f ON f.picture = p.id GROUP BY p.id",
)


def folded(text: str) -> str:
    """A spelling for comparisons: one form of Unicode, no case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


class Finder:
    """Resolves pictures as captions write them to paths of the collection.

    Paths stay in the catalog, and their folded names in temporary tables of its connection, which
    SQLite keeps in a file: memory does not grow with the collection. Paths that were set aside
    count as found: the caption is right, and the report tells what became of the picture.
    """

    def __init__(self, catalog: sqlite3.Connection, root: str, captions: str) -> None:
        self._catalog = catalog
        self._root = root.rstrip("/") + "/"
        beside = (str(path.parent.absolute()) for path in caption_files(captions))
        self._folders = list(dict.fromkeys([root, *beside]))
        self._has_digests = False
        catalog.create_function("folded", 1, folded, deterministic=True)
        catalog.create_function("folded_name", 1, _folded_name, deterministic=True)
        for statement in _BY_NAME:
            catalog.execute(statement)

    def find(self, row: Row) -> str | None:
        """The collection's path of a row's picture; None where it has none, or several.

        Looked for as written under the root and beside the captions, then the same without regard
        to case and Unicode form, then by base name alone. A row with a digest: by that.
        """
        if row.digest is not None:
            return self._by_digest(row.digest)
        places = list(self._places(row.image))
        for place in places:
            if self._catalog.execute(_KNOWN, {"p": place}).fetchone():
                return place
        for place in places:
            found = self._only("whole", folded(place))
            if found:
                return found
        return self._only("name", _folded_name(row.image))

    def _places(self, image: str) -> Iterator[str]:
        """Paths under the root that ``image`` may mean."""
        if image.startswith(REMOTE):
            if image.startswith(self._root):
                yield os.path.normpath(image[len(self._root) :])
            return
        for folder in self._folders:
            if folder.startswith(REMOTE):
                yield os.path.normpath(image)
                continue
            place = os.path.normpath(os.path.join(folder, image))  # noqa: PTH118  20 times faster
            if place.startswith(self._root):
                yield place[len(self._root) :]

    def _only(self, column: str, key: str) -> str | None:
        query = f"SELECT path FROM temp.found_by_name WHERE {column} = ? LIMIT 2"
        rows = self._catalog.execute(query, (key,)).fetchall()
        return str(rows[0][0]) if len(rows) == 1 else None

    def _by_digest(self, digest: bytes) -> str | None:
        if not self._has_digests:  # one table more, only where it is needed
            for statement in _BY_DIGEST:
                self._catalog.execute(statement)
            self._has_digests = True
        query = "SELECT path FROM temp.found_by_digest WHERE digest = ?"
        row = self._catalog.execute(query, (digest,)).fetchone()
        return str(row[0]) if row else None


def _folded_name(path: str) -> str:
    return folded(path.rstrip("/").rpartition("/")[2])
