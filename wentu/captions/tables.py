"""CSV and TSV, however they are written, and the rows of any table, also of a sheet.

The delimiter is the one under which the columns can be told, and the one that gives the most even
rows of those. Quotes may enclose line breaks, as in Excel; only Flickr's own ``x.jpg#0<TAB>text``
is read without quotes, because its texts hold single ones.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from wentu.captions.columns import SAMPLE, Choice, Columns, decide, undecided
from wentu.captions.rows import (
    EXTENSION,
    Row,
    clean_image,
    clean_texts,
    position,
    split_of,
    split_word,
    whole,
)
from wentu.captions.text import Encoding, encoding_of, lines_of
from wentu.errors import FormatError, InputError, WentuError
from wentu.language import pick

NumberedRow = tuple[int, Sequence[str]]
"""Number of the line or row, from 1, and its cells."""

DELIMITERS = {",": ("comma", "逗号"), "\t": ("tab", "制表符"), ";": ("semicolon", "分号")}
DELIMITERS |= {"|": ("bar", "竖线")}
_FLICKR = re.compile(rf'[^\t"]+{EXTENSION}#\d+\t', re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a text file is a table."""

    encoding: Encoding
    delimiter: str
    quotes: bool

    def __str__(self) -> str:
        name = {"utf-8-sig": "UTF-8"}.get(self.encoding, self.encoding.upper())
        return f"{name}{pick(', ', '，')}{pick(*DELIMITERS[self.delimiter])}"


def read_text_table(path: Path, choice: Choice) -> Iterator[Row]:
    """Rows of a CSV or TSV."""
    style, columns = look(path, choice)
    rows = cells_of(path, style)
    return rows_of(path, rows, columns, kind="line", delimiter=style.delimiter)


def describe_text_table(path: Path, choice: Choice) -> str:
    """What was decided about it."""
    style, columns = look(path, choice)
    return f"{style}{pick('; ', '；')}{columns}"


def look(path: Path, choice: Choice) -> tuple[Style, Columns]:
    """The style and the columns of a CSV or TSV, from its first rows."""
    encoding = encoding_of(path)
    first = next((line for line in lines_of(path, encoding) if line.strip()), None)
    if first is None:
        raise empty(path)
    quotes = not _FLICKR.match(first)
    found: list[tuple[float, Style, Columns]] = []
    problems: dict[str, WentuError] = {}
    for delimiter in DELIMITERS:
        style = Style(encoding=encoding, delimiter=delimiter, quotes=quotes)
        try:
            rows = sample(cells_of(path, style))
        except FormatError as error:
            problems[delimiter] = error
            continue
        columns = decide(rows, choice) if rows else None
        if columns is None:
            problems[delimiter] = undecided(path, rows[0] if rows else (), choice)
        else:
            most = max(Counter(map(len, rows)).values())
            found.append((most / len(rows), style, columns))
    if not found:
        raise problems[max(DELIMITERS, key=first.count)]
    _, style, columns = max(found, key=lambda each: each[0])
    return style, columns


def sample(rows: Iterable[NumberedRow]) -> list[Sequence[str]]:
    """The first rows that are not empty."""
    return list(islice((cells for _, cells in rows if any(map(str.strip, cells))), SAMPLE))


def cells_of(path: Path, style: Style) -> Iterator[NumberedRow]:
    """The rows of a CSV or TSV, with the number of the line on which each begins."""
    lines = lines_of(path, style.encoding, newline="")
    reader = csv.reader(
        lines,
        delimiter=style.delimiter,
        quoting=csv.QUOTE_MINIMAL if style.quotes else csv.QUOTE_NONE,
        skipinitialspace=True,
        strict=True,
    )
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            where = position(path, "line", number)
            raise FormatError(
                f"{where}: a quotation mark is not closed, or not written twice inside of quotes "
                f"({error}).",
                f"{where}：引号没有闭合，或引号内的引号没有写两次({error})。",
            ) from None
        if cells is None:
            return
        yield number, cells


def rows_of(
    path: Path,
    rows: Iterable[NumberedRow],
    columns: Columns,
    *,
    kind: str,
    delimiter: str | None = None,
) -> Iterator[Row]:
    """What the rows of a table say; FormatError where one names no picture.

    Args:
        kind: line or row, what the numbers count.
        delimiter: joins what stands beyond the last column, of texts that nobody quoted; None
            ignores it (notes beside the table in a sheet).
    """
    stated, header = split_of(path), bool(columns.header)
    for number, cells in rows:
        if not any(map(str.strip, cells)):
            continue
        if header:
            header = False
            continue
        where = position(path, kind, number)
        full = fitted(cells, columns, where, delimiter)
        if not full[columns.picture].strip():
            raise FormatError(f"{where}: no picture is named there.", f"{where}：没有写明图片。")
        split = split_word(full[columns.split], where) if columns.split is not None else None
        yield Row(
            image=clean_image(full[columns.picture]),
            captions=clean_texts(full[at] for at in columns.captions),
            split=split or stated,
            where=where,
            own_id=whole(full[columns.own_id]).strip() if columns.own_id is not None else "",
        )


def fitted(
    cells: Sequence[str], columns: Columns, where: str, delimiter: str | None
) -> Sequence[str]:
    """As many cells as there are columns."""
    width = columns.width
    if len(cells) <= width:
        return [*cells, *[""] * (width - len(cells))]
    if delimiter is None or not any(map(str.strip, cells[width:])):
        return cells[:width]
    if columns.captions == (width - 1,):
        joint = f"{delimiter} ".lstrip("\t")  # the reader drops spaces behind a delimiter
        return [*cells[: width - 1], joint.join(cells[width - 1 :])]
    raise FormatError(
        f"{where} has {len(cells)} columns, the table has {width}; put texts that hold the "
        "delimiter into quotation marks.",
        f"{where} 有 {len(cells)} 列，而表格有 {width} 列；请把含分隔符的文本放进引号。",
    )


def empty(path: Path) -> InputError:
    """The sentence of a table that holds nothing."""
    return InputError(f"{path} is empty.", f"{path} 是空的。")
