"""Numbers in front of names: 0003-版权 is number three, 3只小猪 are three pigs.

A number is only a numbering if the names around it say so, so a folder is judged as a whole, and
one with too few names to judge goes by the collection. What is seen goes to a database on disk:
memory grows with the folders, not with the pictures.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field

from wentu.captions.words import UNITS

NEARLY_ALL = 0.9
SPARSE = 10
"""A counter leaves out at most this many numbers for each that is there."""
ENOUGH = 3
"""Names from which a folder can be judged on its own."""

_PREFIX = re.compile(
    r"(?P<open>[(（\[【]?)(?P<number>\d{1,9})(?P<separator>[)）\]】]?[-_.、．·:：\s]*)(?P<rest>.+)",
    re.DOTALL,
)
_SUMMARY = (
    "SELECT folder, width, count(*), count(DISTINCT number), min(number), max(number), max(zero), "
    "sum(bare), sum(counting) FROM seen GROUP BY folder, width"
)


@dataclass
class Evidence:
    """What the names of a folder begin with."""

    names: int = 0
    numbered: int = 0
    distinct: int = 0
    low: int = 1 << 62
    high: int = -1
    widths: Counter[int] = field(default_factory=Counter)
    """Digits of a number -> names."""
    padded: set[int] = field(default_factory=set)
    """Widths of which some begin with 0."""
    bare: int = 0
    """Numbers with nothing between them and the text."""
    counting: int = 0
    """Those of them that a measure word or a Latin letter follows: 3只, 2024年, 3D."""

    def add(self, width: int | None, names: int, *found: int) -> None:
        """Add the names of a folder whose numbers have one width (None: that have no number)."""
        self.names += names
        if width is None:
            return
        distinct, low, high, zero, bare, counting = found
        self.numbered += names
        self.distinct += distinct
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.widths[width] += names
        self.padded |= {width} if zero else set()
        self.bare += bare
        self.counting += counting

    def says_numbering(self) -> bool:
        """Are these numbers of the names, and no part of what they say?"""
        if self.numbered < max(NEARLY_ALL * self.names, 1):
            return False
        if self.distinct < NEARLY_ALL * self.numbered:
            return False
        counts_things = 2 * self.counting > self.numbered
        width = max(self.padded, key=self.widths.__getitem__, default=0)
        if self.widths[width] >= NEARLY_ALL * self.numbered:
            return width > 2 or not counts_things  # 01月 may be January, 001月 is no month
        enough = self.names >= ENOUGH or (self.names > 1 and not self.bare)
        years = self.low >= 1900 and self.high < 2100 and self.numbered <= 50
        dense = self.high - self.low < SPARSE * self.numbered
        return enough and dense and not counts_things and not years


@dataclass(frozen=True)
class Numbered:
    """A name that begins with a number."""

    number: str
    separator: str
    rest: str

    @classmethod
    def of(cls, name: str) -> Numbered | None:
        """None where no number stands in front, as in 3.5寸软盘, 12:30 and 0001."""
        match = _PREFIX.fullmatch(name)
        if match is None:
            return None
        separator, rest = match["open"] + match["separator"], match["rest"]
        if rest[0].isdigit() and (not separator or separator[-1] in ".．:："):
            return None
        return cls(match["number"], separator, rest)

    def row(self) -> tuple[int, int, bool, bool, bool]:
        """number, width, does it begin with 0, is it bare, does it count something."""
        bare, follows = not self.separator, self.rest[0]
        counting = bare and (follows in UNITS or (follows.isascii() and follows.isalpha()))
        width = len(self.number)
        return int(self.number), width, width > 1 and int(self.number[0]) == 0, bare, counting


class Numbering:
    """Strips numbers from names, folder by folder, where they are a numbering."""

    def __init__(self, names: Iterable[tuple[str, str]]) -> None:
        """names: (folder, name) of everything that may be a caption."""
        self._folders: dict[str, Evidence] = {}
        self._all = Evidence()
        keys: dict[str, int] = {}
        with closing(sqlite3.connect("")) as seen:  # '': a temporary file that goes when closed
            seen.execute("CREATE TABLE seen (folder, number, width, zero, bare, counting)")
            for folder, name in names:
                numbered = Numbered.of(name)
                row = numbered.row() if numbered else (None,) * 5
                key = keys.setdefault(folder, len(keys))
                seen.execute("INSERT INTO seen VALUES (?, ?, ?, ?, ?, ?)", (key, *row))
            folders = list(keys)
            for key, *found in seen.execute(_SUMMARY):
                self._folders.setdefault(folders[key], Evidence()).add(*found)
                self._all.add(*found)

    def strip(self, folder: str, name: str) -> str:
        """The name without its number, if it has one that is a numbering."""
        numbered = Numbered.of(name)
        if numbered is None:
            return name
        evidence = self._folders.get(folder, self._all)
        if evidence.names < ENOUGH and not evidence.says_numbering():
            evidence = self._all
        return numbered.rest if evidence.says_numbering() else name
