"""Which pictures of a segment pass a filter, as one bit a row.

A segment never changes, so what a condition gives is kept: choosing a folder and typing on costs
the look into the catalog once. Ids go from SQLite into an array one by one; no list is made.
"""

from __future__ import annotations

import fnmatch
import re
import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from wentu.formats import has_moments
from wentu.search.query import Filters
from wentu.search.segment import Rows, Segment

Mask = npt.NDArray[np.bool_]
Value: TypeAlias = str | int
KEPT = 16
"""Conditions of a segment whose rows are remembered: a byte for each picture."""
_NO_DATE = "SELECT id FROM pictures WHERE 0"


class Sieve:
    """What passes which condition in one segment."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self._known: OrderedDict[tuple[Value, ...], Mask] = OrderedDict()
        self._lock = threading.Lock()

    def passing(self, filters: Filters) -> Mask:
        """[N] does the picture of a row pass?"""
        result = np.ones(len(self.segment.ids), bool)
        for condition in conditions(filters):
            result &= self._mask(condition)
        return result

    def _mask(self, condition: tuple[Value, ...]) -> Mask:
        with self._lock:
            if condition in self._known:
                self._known.move_to_end(condition)
                return self._known[condition]
        mask = np.zeros(len(self.segment.ids), bool)
        mask[self.segment.rows_of(self._ids(condition))] = True
        with self._lock:
            self._known[condition] = mask
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
        return mask

    def _ids(self, condition: tuple[Value, ...]) -> Rows:
        """Pictures of which a condition (SQL, its values) holds; some of them more than once."""
        query, *values = condition
        fits: Callable[[str], bool] | None = None
        with self.segment.catalog.borrow() as db:
            if "moments" in str(query) and not has_moments(db):
                query, values = _NO_DATE, []
            if query == _NAMED:
                fits, values = name_test(str(values[0])), [like(str(values[0]))]
            rows = db.execute(str(query), values)
            ids = (row[0] for row in rows if fits is None or fits(row[1]))
            return np.unique(np.fromiter(ids, np.int64))


_NAMED = "SELECT picture, path FROM paths WHERE path LIKE ? ESCAPE '\\'"


def conditions(filters: Filters) -> Iterator[tuple[Value, ...]]:
    """(SQL that gives ids, its values) of each thing that is asked for."""
    if folder := filters.folder.strip("/"):
        low, high = f"{folder}/", f"{folder}0"  # "0" follows "/"
        yield "SELECT picture FROM paths WHERE path >= ? AND path < ?", low, high
    if filters.name:
        yield _NAMED, filters.name
    for name in ("taken", "added"):
        first, last = getattr(filters, f"{name}_from"), getattr(filters, f"{name}_to")
        if first:
            yield f"SELECT picture FROM moments WHERE {name} >= ?", first
        if last:  # 2024-05 is there in 2024-05-31T23:59:59
            query = f"SELECT picture FROM moments WHERE substr({name}, 1, ?) <= ?"
            yield query, len(last), last
    if filters.captioned is not None:
        some = "IN" if filters.captioned else "NOT IN"
        yield (f"SELECT id FROM pictures WHERE id {some} (SELECT picture FROM captions)",)
    if filters.min_side:
        yield "SELECT id FROM pictures WHERE min(width, height) >= ?", filters.min_side
    if filters.max_side:
        yield "SELECT id FROM pictures WHERE max(width, height) <= ?", filters.max_side


def name_test(wanted: str) -> Callable[[str], bool]:
    """Does the file's name of a path contain it, or fit it where it has * or ?"""
    wanted = _even(wanted)
    if not {"*", "?"} & set(wanted):
        return lambda path: wanted in _even(path.rpartition("/")[2])
    # Its patterns take no exponential time, as ".*" for each star would; brackets mean themselves.
    pattern = re.compile(fnmatch.translate(wanted.replace("[", "[[]")))
    return lambda path: bool(pattern.fullmatch(_even(path.rpartition("/")[2])))


def _even(text: str) -> str:
    """Without case; Macs write some letters as two characters (NFD)."""
    return unicodedata.normalize("NFC", text).lower()


def like(wanted: str) -> str:
    """A pattern for SQLite that every such path fits, and some others: it reads a million in C.

    It knows the case of ASCII only, so of what was asked for it is given ASCII and Chinese.
    """
    composed = unicodedata.normalize("NFC", wanted)
    plain = re.findall(r"[!-)+->@-~\u4e00-\u9fff]+", composed)
    escaped = (re.sub(r"([\\%_])", r"\\\1", part) for part in plain)
    return "%" + "".join(f"{part}%" for part in escaped)
