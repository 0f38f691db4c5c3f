"""Listings of a collection, of any size in little memory: written once, read from their beginning.

A listing is rows: ["picture", path, size, digest] in the order of the paths, which is what every
walk gives, then ["captions", name, size, digest]; and ["forgotten", n] where gc dropped the rows of
n pictures that are no more. Two listings are compared side by side, as two sorted streams.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from json.encoder import encode_basestring
from pathlib import Path
from typing import IO, Any

from wentu.errors import FormatError
from wentu.formats import batched, digest_of
from wentu.language import pick

Row = list[Any]
Others = tuple[list[Row], list[Row]]
"""Rows that are no pictures', of the listing before and of the one now."""
BLOCK = 2**20
_PICTURE = b'["picture",'
_SAME: Row = ["picture", "", 0, ""]


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    """Rows as gzipped JSON lines; equal rows are equal bytes."""
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", fileobj=raw, mode="wb", compresslevel=5, mtime=0) as file,
    ):
        for row in rows:
            line = json.dumps(row, ensure_ascii=False) + "\n"
            file.write(line.encode("utf-8", "surrogatepass"))


def lines_of(raw: IO[bytes]) -> Iterator[bytes]:
    """The lines of a gzipped file, each with its end."""
    rest = b""
    with gzip.GzipFile(fileobj=raw) as file:
        # By blocks: asked for line by line, GzipFile takes three times as long.
        while block := file.read(BLOCK):
            lines = (rest + block).splitlines(keepends=True)
            rest = lines.pop() if lines[-1][-1:] != b"\n" else b""
            yield from lines
    if rest:
        yield rest


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A listing in a file of this machine; iterating reads it again."""

    path: Path
    digest: str
    """Its identity: that of its rows."""
    pictures: int
    size: int
    """Of all pictures, in bytes."""

    @classmethod
    def write(cls, path: Path, rows: Iterable[Row]) -> Listing:
        """Keep rows in a new file, gzipped, and count them on the way."""
        seen, pictures, size = hashlib.blake2b(b"[", digest_size=16), 0, 0
        between = b""
        with (
            path.open("wb") as raw,
            gzip.GzipFile("", fileobj=raw, mode="wb", compresslevel=1, mtime=0) as file,
        ):
            for part in batched(rows, 1000):  # one by one, the calls would take most of the time
                lines = list(map(_canonical, part))
                # As digest_of has it of all rows at once.
                seen.update(between + ",".join(lines).encode("utf-8", "surrogatepass"))
                between = b","
                file.write("\n".join([*lines, ""]).encode("utf-8", "surrogatepass"))
                found = [row[2] for row in part if row[0] == "picture"]
                pictures, size = pictures + len(found), size + sum(found)
        seen.update(b"]")
        return cls(path=path, digest=seen.hexdigest(), pictures=pictures, size=size)

    def lines(self) -> Iterator[bytes]:
        """Its lines as they lie there."""
        with self.path.open("rb") as raw:
            yield from lines_of(raw)

    def __iter__(self) -> Iterator[Row]:
        for line in self.lines():
            yield json.loads(line.decode("utf-8", "surrogatepass"))


def _canonical(row: Row) -> str:
    """The JSON that ``digest_of`` makes of a row; of a picture's put together by hand, faster."""
    if row[0] == "picture":
        return f'["picture",{encode_basestring(row[1])},{row[2]},"{row[3]}"]'
    return json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def pictures_of(rows: Iterable[Any], rest: list[Row] | None = None) -> Iterator[Row]:
    """The rows of pictures; the others are added to ``rest``."""
    last = ""
    for row in rows:
        if row[0] == "picture":
            if last and row[1] <= last:
                raise FormatError(
                    f"a listing in the store is not in order ({last!r} before {row[1]!r}); begin "
                    "another --store.",
                    f"仓库中的清单顺序不对({last!r} 在 {row[1]!r} 之前)；请使用新的 --store。",
                )
            last = row[1]
            yield row
        elif rest is not None:
            rest.append(row)


def side_by_side(
    one: Iterator[Row], other: Iterator[Row]
) -> Iterator[tuple[Row | None, Row | None]]:
    """Rows of two sorted streams by path: (of the first, of the other), None where it lacks it."""
    a, b = next(one, None), next(other, None)
    while a is not None or b is not None:
        if b is None or (a is not None and a[1] < b[1]):
            yield a, None
            a = next(one, None)
        elif a is None or b[1] < a[1]:
            yield None, b
            b = next(other, None)
        else:
            yield a, b
            a, b = next(one, None), next(other, None)


def captions_of(rows: Iterable[Any]) -> str:
    """Digest of the captions' part of a listing."""
    return digest_of([row for row in rows if row[0] == "captions"])


def forgotten_of(rows: Iterable[Any]) -> int:
    """How many pictures gc dropped from a listing."""
    return sum(row[1] for row in rows if row[0] == "forgotten")


def key_of(digest: str) -> int:
    """The first 64 bits of a hex digest: what tells a picture from others in little memory."""
    return int(digest[:16] or "0", 16)


@dataclass(frozen=True, kw_only=True)
class Changes:
    """A listing against an earlier one, in pictures."""

    new: int
    edited: int
    deleted: int
    captions: bool

    @property
    def pictures(self) -> int:
        """All pictures that changed."""
        return self.new + self.edited + self.deleted

    def __str__(self) -> str:
        text = pick(
            f"{self.new:,} new, {self.edited:,} edited, {self.deleted:,} deleted",
            f"新增 {self.new:,}，修改 {self.edited:,}，删除 {self.deleted:,}",
        )
        return text + (pick(", captions changed", ",描述有变化") if self.captions else "")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A listing beside an earlier one."""

    changes: Changes
    total: int
    """Pictures of the earlier one, but for those that gc dropped from it."""
    missing: Counter[int]
    """Those whose path is no more, by what their digest begins with."""


def compare(rows: Iterable[Any], before: Iterable[Any]) -> Comparison:
    """What changed from the listing ``before`` to ``rows``; streams both."""
    others: Others = [], []
    return _counted(
        side_by_side(pictures_of(before, others[0]), pictures_of(rows, others[1])), others
    )


def compare_lines(lines: Iterator[bytes], before: Iterator[bytes]) -> Comparison:
    """The same of listings as they lie in files: equal lines, nearly all, are not even parsed."""
    others: Others = [], []
    return _counted(_lines_side_by_side(before, lines, others), others)


def _lines_side_by_side(
    one: Iterator[bytes], other: Iterator[bytes], others: Others
) -> Iterator[tuple[Row | None, Row | None]]:
    a, b = next(one, b""), next(other, b"")
    while a or b:
        if a == b and a.startswith(_PICTURE):
            yield _SAME, _SAME
            a, b = next(one, b""), next(other, b"")
            continue
        old, new = (json.loads(line.decode("utf-8", "surrogatepass") or "null") for line in (a, b))
        if old and old[0] != "picture":
            others[0].append(old)
            a = next(one, b"")
        elif new and new[0] != "picture":
            others[1].append(new)
            b = next(other, b"")
        elif new is None or (old is not None and old[1] < new[1]):
            yield old, None
            a = next(one, b"")
        elif old is None or new[1] < old[1]:
            yield None, new
            b = next(other, b"")
        else:
            yield old, new
            a, b = next(one, b""), next(other, b"")


def _counted(pairs: Iterable[tuple[Row | None, Row | None]], others: Others) -> Comparison:
    new = edited = total = 0
    missing: Counter[int] = Counter()
    for old, row in pairs:
        if old is None:
            new += 1
            continue
        total += 1
        if row is None:
            missing[key_of(old[3])] += 1
        else:
            edited += old[3] != row[3]
    changes = Changes(
        new=new,
        deleted=missing.total() + forgotten_of(others[0]),
        edited=edited,
        captions=captions_of(others[0]) != captions_of(others[1]),
    )
    return Comparison(changes=changes, total=total, missing=missing)


def write_without(path: Path, before: Iterable[Any], now: Iterable[Any]) -> int:
    """Write ``before`` without the pictures that are not in ``now``, but for their number.

    Returns how many rows that leaves out.
    """
    rest: list[Row] = []
    gone = 0

    def rows() -> Iterator[Row]:
        nonlocal gone
        for old, new in side_by_side(pictures_of(before, rest), pictures_of(now)):
            if old and new:
                yield old
            gone += new is None
        yield from (row for row in rest if row[0] != "forgotten")
        yield ["forgotten", forgotten_of(rest) + gone]

    write_lines(path, rows())
    return gone
