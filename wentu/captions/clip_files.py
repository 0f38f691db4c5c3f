"""Chinese-CLIP's own layout: ``{split}_imgs.tsv`` (id, base64) and ``{split}_texts.jsonl``.

The pictures are inside, under ids that only these files know. What leads to the collection is the
digest of a picture's bytes; id -> digest is kept in a database on disk, not in memory.
"""

from __future__ import annotations

import binascii
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from wentu.captions.json_files import parse_line
from wentu.captions.rows import Row, clean_texts, position, reading, split_of, whole
from wentu.captions.text import lines_of
from wentu.errors import FormatError
from wentu.formats import bytes_digest

LONGEST = 1 << 28
"""Bytes of a line of the TSV; a picture of 192 MiB."""
SHORTEST_PICTURE = 32
"""Characters of base64; a first line with fewer is a header."""
_URLSAFE = bytes.maketrans(b"-_", b"+/")


def read_clip(tsv: Path, jsonl: Path) -> Iterator[Row]:
    """A row per caption and picture; then one without caption per picture that has none."""
    split = split_of(jsonl)
    with closing(sqlite3.connect("")) as known:  # '': a temporary file that goes when closed
        known.execute(
            "CREATE TABLE pictures (id TEXT PRIMARY KEY, digest BLOB, line INTEGER, "
            "captioned INTEGER DEFAULT 0) WITHOUT ROWID"
        )
        for line, own_id, digest in pictures(tsv):
            _add(known, tsv, line, own_id, digest)
        for where, text, ids in texts(jsonl):
            for own_id in ids:
                found = known.execute(
                    "UPDATE pictures SET captioned = 1 WHERE id = ? RETURNING digest", (own_id,)
                ).fetchone()
                yield Row(
                    image="" if found else own_id,  # for the message that it is nowhere
                    captions=clean_texts([text]),
                    split=split,
                    where=where,
                    digest=found[0] if found else None,
                    own_id=own_id,
                )
        bare = "SELECT id, digest, line FROM pictures WHERE NOT captioned ORDER BY line"
        for own_id, digest, line in known.execute(bare):
            where = position(tsv, "line", line)
            yield Row(image="", captions=(), where=where, digest=digest, own_id=own_id)


def _add(known: sqlite3.Connection, tsv: Path, line: int, own_id: str, digest: bytes) -> None:
    row = (own_id, digest, line)
    known.execute("INSERT OR IGNORE INTO pictures (id, digest, line) VALUES (?, ?, ?)", row)
    query = "SELECT digest, line FROM pictures WHERE id = ?"
    before, first = known.execute(query, (own_id,)).fetchone()
    if before != digest:
        where = position(tsv, "line", line)
        raise FormatError(
            f"{where}: the id {own_id} stands on another picture in line {first}.",
            f"{where}：编号 {own_id} 在第 {first} 行对应另一张图片。",
        )


def pictures(tsv: Path) -> Iterator[tuple[int, str, bytes]]:
    """(line, id, digest of the picture's bytes) per line of an ``_imgs.tsv``, streamed."""
    with reading(tsv), tsv.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST):
            number += 1
            left, tab, right = line.strip(b"\xef\xbb\xbf\r\n\t ").partition(b"\t")
            if not left and not tab:
                continue
            if number == 1 and len(right) < SHORTEST_PICTURE and not left.isdigit():
                continue  # a header
            where = position(tsv, "line", number)
            yield number, _id_of(left.decode("utf-8", "replace"), where), _digest(right, where)


def texts(jsonl: Path) -> Iterator[tuple[str, str, list[str]]]:
    """(where, text, ids of its pictures) per line of a ``_texts.jsonl``, streamed."""
    for number, line in enumerate(lines_of(jsonl), 1):
        if not line.strip():
            continue
        where = position(jsonl, "line", number)
        value: Any = parse_line(line, where)
        text = value.get("text") if isinstance(value, dict) else None
        ids = value.get("image_ids") if isinstance(value, dict) else None
        if not isinstance(text, str) or not isinstance(ids, list):
            raise FormatError(
                f'{where}: expected "text" and "image_ids" (a list of ids).',
                f"{where}：应含 text 和 image_ids(编号列表)。",
            )
        yield where, text, [_id_of(each, where) for each in ids]


def _id_of(value: object, where: str) -> str:
    """An id in one spelling: 7, "7" and "007" are the same picture."""
    text = str(value).strip() if isinstance(value, (str, int)) else ""
    if not 0 < len(text) <= 100:
        raise FormatError(
            f"{where}: {str(value)[:40]!r} is no id of a picture.",
            f"{where}：{str(value)[:40]!r} 不是图片编号。",
        )
    digits = text.removeprefix("-")
    return str(int(text)) if digits.isascii() and digits.isdecimal() else whole(text)


def _digest(base64: bytes, where: str) -> bytes:
    """Digest of what base64 of either alphabet says, with or without its padding."""
    coded = base64.translate(_URLSAFE).rstrip(b"=")
    try:
        data = binascii.a2b_base64(coded + b"=" * (-len(coded) % 4), strict_mode=True)
    except binascii.Error:
        data = b""
    if not data:
        raise FormatError(
            f"{where}: expected an id, a tab and the picture's file in base64.",
            f"{where}：应为「编号、制表符、图片文件的 base64」。",
        )
    return bytes_digest(data)
