"""XLSX: the first sheet that holds anything, cell by cell as text.

openpyxl lets through whatever its parsers raise on a damaged file, so anything it raises is one
sentence here. How much a file unpacks to is looked at before it is unpacked.
"""

from __future__ import annotations

import datetime
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from wentu.captions.columns import Choice, Columns, decide, undecided
from wentu.captions.rows import Row, reading
from wentu.captions.tables import NumberedRow, empty, rows_of, sample
from wentu.errors import FormatError, WentuError
from wentu.language import pick

MOST_BYTES = 1 << 30
"""Unpacked size that is still a table of captions."""
SUSPICIOUS_BYTES, MOST_RATIO = 1 << 26, 200
"""Files that unpack to more than the first are refused if they grow by more than the second."""
MOST_ROWS = 1 << 20
"""What Excel can hold; a row that claims a higher number is damage."""
BATCH = 1 << 10


def read_sheet(path: Path, choice: Choice) -> Iterator[Row]:
    """Rows of an XLSX."""
    with opened(path) as book:
        sheet, columns = look(path, book, choice)
        yield from rows_of(path, cells_of(path, sheet), columns, kind="row")


def describe_sheet(path: Path, choice: Choice) -> str:
    """What was decided about it."""
    with opened(path) as book:
        sheet, columns = look(path, book, choice)
        name = pick(f", sheet {sheet.title}", f"，工作表 {sheet.title}")
        return f"XLSX{name if len(book.worksheets) > 1 else ''}{pick('; ', '；')}{columns}"


def look(path: Path, book: Any, choice: Choice) -> tuple[Any, Columns]:
    """The first sheet that holds anything, and what its columns are."""
    for sheet in book.worksheets:
        rows = sample(cells_of(path, sheet))
        if rows:
            columns = decide(rows, choice)
            if columns is None:
                raise undecided(path, rows[0], choice)
            return sheet, columns
    raise empty(path)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The workbook, read cell by cell; closed afterwards."""
    import openpyxl

    with reading(path), path.open("rb") as file:
        with explained(path):
            with zipfile.ZipFile(file) as archive:
                refuse_bombs(path, archive)
            book = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
        try:
            yield book
        finally:
            book.close()


def refuse_bombs(path: Path, archive: zipfile.ZipFile) -> None:
    """FormatError where the file unpacks to what no table of captions is."""
    members = archive.infolist()
    unpacked = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    if unpacked > MOST_BYTES or unpacked > max(SUSPICIOUS_BYTES, MOST_RATIO * packed):
        raise FormatError(
            f"{path} unpacks from {packed:,} to {unpacked:,} bytes, which no table of captions "
            "does; save it as CSV.",
            f"{path} 会从 {packed:,} 字节解压到 {unpacked:,} 字节，不像描述表；请另存为 CSV。",
        )


def cells_of(path: Path, sheet: Any) -> Iterator[NumberedRow]:
    """The rows of a sheet as texts, with their numbers."""
    with explained(path):
        sheet.reset_dimensions()  # what a file says of its size need not be so
        rows = sheet.iter_rows(values_only=True)
    number = 0
    while number < MOST_ROWS:
        with explained(path):
            batch = list(islice(rows, BATCH))
        if not batch:
            return
        for cells in batch:
            number += 1
            yield number, [text_of(cell) for cell in cells]
    raise damaged(path, pick("too many rows", "行数过多"))


def text_of(cell: object) -> str:
    """A cell as one reads it: 3, not 3.0; a day without its midnight."""
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15:
        return str(int(cell))
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time():
        return cell.date().isoformat()
    return str(cell)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns whatever openpyxl raises into a sentence, and silences what it passes over."""
    try:
        with warnings.catch_warnings():  # of parts that we do not read: styles, validation
            warnings.simplefilter("ignore")
            yield
    except WentuError:
        raise
    except Exception as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from None


def damaged(path: Path, reason: str) -> FormatError:
    """The sentence of a file that is no workbook."""
    short = " ".join(reason.split())[:200]
    return FormatError(
        f"{path} cannot be read as XLSX ({short}); save it again, or as CSV.",
        f"{path} 无法作为 XLSX 读取({short})；请重新保存，或另存为 CSV。",
    )
