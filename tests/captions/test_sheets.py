"""XLSX: cells as one reads them, the sheet that holds something, and files that are none."""

from __future__ import annotations

import datetime
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.captions.writers import EXCEL, write_parts, write_sheet
from wentu import captions
from wentu.captions import sheets
from wentu.errors import FormatError, InputError


def found(path: Path, **columns: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(row.image, row.captions) for row in captions.read(str(path), **columns)]


def test_the_first_sheet_that_holds_something_is_read(tmp_path: Path) -> None:
    rows = [("图片", "描述", "划分"), (), ("a.jpg", "一只狗", "测试"), ("b.jpg", "猫", None)]
    path = write_sheet(tmp_path / "train.xlsx", [], rows, [("x", "y")])
    assert [
        (row.image, row.captions, row.split, row.where) for row in captions.read(str(path))
    ] == [
        ("a.jpg", ("一只狗",), "test", "train.xlsx, row 3"),
        ("b.jpg", ("猫",), "train", "train.xlsx, row 4"),
    ]
    (told,) = captions.describe(str(path))
    assert told.startswith(
        "train.xlsx: XLSX, sheet 表2; picture = 图片, caption = 描述, split = 划分"
    )


def test_a_workbook_of_excel_is_read(tmp_path: Path) -> None:
    path = write_parts(tmp_path / "c.xlsx", EXCEL)
    assert found(path) == [("a.jpg", ("一只 狗",)), ("b.png", ("猫",))]
    assert captions.describe(str(path)) == ["c.xlsx: XLSX; picture = 图片, caption = 描述"]


def test_numbers_are_texts_as_one_reads_them(tmp_path: Path) -> None:
    day, hour = datetime.datetime(2024, 1, 2), datetime.datetime(2024, 1, 2, 3, 4)
    values = [3, 3.0, 3.5, 1e20, True, day, hour, "3.0", "=1+1", "#N/A"]
    path = write_sheet(
        tmp_path / "c.xlsx", [("picture", "caption")] + [("a.jpg", v) for v in values]
    )
    texts = [text for _, (text,) in found(path)]
    assert texts[:5] == ["3", "3", "3.5", "1e+20", "True"]
    assert texts[5:] == ["2024-01-02", "2024-01-02 03:04:00", "3.0", "=1+1", "#N/A"]


def test_columns_may_be_named_and_notes_beside_the_table_are_no_matter(tmp_path: Path) -> None:
    rows = [("a", "b"), ("x1", "狗", None, "note"), ("x2", 5)]
    path = write_sheet(tmp_path / "c.xlsx", rows)
    assert found(path, picture_column="a", caption_column="2") == [("x1", ("狗",)), ("x2", ("5",))]
    with pytest.raises(InputError, match="its columns: 1 a, 2 b"):
        found(path)


def test_a_row_without_picture_names_its_number(tmp_path: Path) -> None:
    path = write_sheet(
        tmp_path / "c.xlsx", [("image", "caption"), ("a.jpg", "狗"), (), (None, "猫")]
    )
    with pytest.raises(FormatError, match=r"c\.xlsx, row 4: no picture is named there"):
        found(path)


def test_an_empty_workbook_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"c\.xlsx is empty"):
        found(write_sheet(tmp_path / "c.xlsx", [], [(), ("", " ")]))


# --- files that are no table ---------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"PK\x03\x04" + b"x" * 500, b"hello"])
def test_other_bytes_are_a_sentence(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "c.xlsx").write_bytes(data)
    with pytest.raises(FormatError, match="cannot be read as XLSX"):
        found(tmp_path / "c.xlsx")


def test_a_zip_of_other_things_is_a_sentence(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "c.xlsx", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(FormatError, match="cannot be read as XLSX"):
        found(tmp_path / "c.xlsx")


def rewritten(path: Path, part: str, old: bytes, new: bytes) -> Path:
    """A copy of a workbook with something replaced in one of its parts."""
    target = path.with_name("changed.xlsx")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w", 8) as copy:
        for name in source.namelist():
            data = source.read(name)
            copy.writestr(name, data.replace(old, new, 1) if name.endswith(part) else data)
    return target


def test_a_zip_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_sheet(tmp_path / "c.xlsx", [("image", "caption"), ("a.jpg", "狗")])
    bomb = rewritten(path, "sheet1.xml", b"</sheetData>", b" " * (1 << 23) + b"</sheetData>")
    assert found(bomb) == [("a.jpg", ("狗",))]  # small enough to be taken as it is
    monkeypatch.setattr(sheets, "SUSPICIOUS_BYTES", 1 << 20)
    with pytest.raises(FormatError, match=r"unpacks from [\d,]+ to 8,[\d,]+ bytes"):
        found(bomb)


def test_what_unpacks_to_a_gigabyte_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheets, "MOST_BYTES", 1000)
    with pytest.raises(FormatError, match="which no table of captions does"):
        found(write_sheet(tmp_path / "c.xlsx", [("image", "caption")]))


def test_a_claimed_size_and_a_claimed_row_number_take_no_time(tmp_path: Path) -> None:
    path = write_sheet(tmp_path / "c.xlsx", [("image", "caption"), ("a.jpg", "狗")])
    large = rewritten(path, "sheet1.xml", b'ref="A1:B2"', b'ref="A1:XFD1048576"')
    assert found(large) == [("a.jpg", ("狗",))]
    far = rewritten(path, "sheet1.xml", b'<row r="2"', b'<row r="999999999999"')
    with pytest.raises(FormatError, match="too many rows"):
        found(far)


def test_parts_that_are_not_read_may_be_strange(tmp_path: Path) -> None:
    """openpyxl warns of them; warnings are errors here."""
    path = write_sheet(tmp_path / "c.xlsx", [("image", "caption"), ("a.jpg", "狗")])
    extension = b'<extLst><ext uri="{CCE6A557-97BC-4b89-ADB6-D9C93CAAB3DF}"/></extLst></worksheet>'
    assert found(rewritten(path, "sheet1.xml", b"</worksheet>", extension)) == [("a.jpg", ("狗",))]


# --- anything that is written is read ------------------------------------------------------------

# XML cannot hold control characters, and makes every line end \n.
CELL = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"))


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40
)
@given(rows=st.lists(st.tuples(CELL, CELL, st.integers(-(10**9), 10**9)), max_size=5))
def test_any_sheet_is_read_as_it_was_written(
    tmp_path: Path, rows: list[tuple[str, str, int]]
) -> None:
    written = [(number, f"{name}.png", text) for name, text, number in rows]
    path = write_sheet(tmp_path / "c.xlsx", [("编号", "图片", "描述"), *written])
    assert [(row.own_id, row.image, row.captions) for row in captions.read(str(path))] == [
        (str(number), name.strip().replace("\\", "/"), (text.strip(),) if text.strip() else ())
        for number, name, text in written
    ]
