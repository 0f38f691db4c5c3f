"""Text files as users have them: UTF-8, UTF-16 with its mark, or GB18030, line by line.

A file is read twice: first to learn its encoding, strictly and to its end, so that one that turns
bad in its last line is refused before anything is made of its first.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from wentu.captions.rows import position, reading
from wentu.errors import FormatError

Encoding = Literal["utf-8", "utf-8-sig", "utf-16", "gb18030"]

LONGEST = 1 << 20
"""Characters of a line. A file with longer ones is no text, and would fill the memory."""
BLOCK = 1 << 16
MARKS: dict[bytes, Encoding] = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def encoding_of(path: Path) -> Encoding:
    """The encoding of a text file; FormatError with the line where it is none of ours."""
    with reading(path), path.open("rb") as file:
        head = file.read(3)
    marked = next((MARKS[mark] for mark in MARKS if head.startswith(mark)), None)
    bad: list[int] = []
    for encoding in (marked,) if marked else ("utf-8", "gb18030"):
        line = _first_bad(path, encoding)
        if not line:
            return encoding
        bad.append(line)
    where = position(path, "line", max(bad))  # the encoding that it is comes furthest
    tried = "UTF-16" if marked == "utf-16" else "UTF-8" if marked else "UTF-8, GBK or GB18030"
    raise FormatError(
        f"{where} is not {tried} text; save the file as UTF-8.",
        f"{where} 不是 {tried} 文本；请另存为 UTF-8。",
    )


def lines_of(
    path: Path, encoding: Encoding | None = None, *, newline: str | None = None
) -> Iterator[str]:
    """The lines of a text file; ``newline`` as in ``open``."""
    encoding = encoding or encoding_of(path)
    with reading(path), path.open(encoding=encoding, newline=newline) as file:
        number = 0
        while line := file.readline(LONGEST):
            number += 1
            if len(line) == LONGEST:
                where = position(path, "line", number)
                raise FormatError(
                    f"{where} has more than {LONGEST:,} characters; this is no file of captions.",
                    f"{where} 超过 {LONGEST:,} 个字符；这不是描述文件。",
                )
            yield line


def _first_bad(path: Path, encoding: Encoding) -> int:
    """Number of the first line that is not text in that encoding; 0: all are."""
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    line = 1
    with reading(path), path.open("rb") as file:
        while True:
            block = file.read(BLOCK)
            before = decoder.getstate()
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeError:
                decoder.setstate(before)
                return line + _newlines_before_error(decoder, block)
            if "\0" in text:
                raise _nul(path, line + text[: text.index("\0")].count("\n"))
            if not block:
                return 0
            line += text.count("\n")


def _newlines_before_error(decoder: codecs.IncrementalDecoder, block: bytes) -> int:
    count = 0
    try:
        for at in range(len(block)):
            count += decoder.decode(block[at : at + 1]).count("\n")
    except UnicodeError:
        pass
    return count


def _nul(path: Path, line: int) -> FormatError:
    where = position(path, "line", line)
    return FormatError(
        f"{where} holds a NUL character: the file is damaged, or UTF-16 without its mark; save it "
        "as UTF-8.",
        f"{where} 含有 NUL 字符：文件已损坏，或是没有标记的 UTF-16;请另存为 UTF-8。",
    )
