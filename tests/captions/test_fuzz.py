"""Broken files of every layout end in rows or in a sentence: never in anything else, never late."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.captions.writers import EXCEL, write_clip, write_list, write_sheet, write_table
from tests.fuzz import mutations, survives
from wentu import captions

Read = Callable[[bytes], object]

ROWS = [
    ("编号", "图片", "描述1", "描述2", "划分"),
    ("7", "a/狗.jpg", '一只"大"狗, 在跑', "dog; black", "train"),
    ("8", "b.png", "两行\n文字", "", "测试"),
    ("9", "c.jpg#1", "猫", "😀 cat", ""),
]
FLICKR = 'x_1.jpg#0\tA dog , black .\nx_1.jpg#1\t" Stop " it says\n狗.jpg#0\t一只狗\n'


def everything(place: Path) -> object:
    return captions.describe(str(place)), list(captions.read(str(place)))


def of_file(path: Path) -> tuple[bytes, Read]:
    """A valid file, and how to read other bytes in its place."""

    def read(data: bytes) -> object:
        path.write_bytes(data)
        return everything(path)

    return path.read_bytes(), read


def json_list(folder: Path) -> tuple[bytes, Read]:
    said = [("a\\狗.jpg", ["一只狗", "dog"]), ("b.png", ['"猫"\n😀'])]
    return of_file(write_list(folder / "cn_train.json", said))


def jsonl(folder: Path) -> tuple[bytes, Read]:
    path = folder / "c.jsonl"
    path.write_text(
        '{"id": 7, "图片": "a/狗.jpg", "描述": ["一只狗", "dog"], "split": "val"}\n\n'
        '{"file_name": "b.png", "caption1": "\\u732b", "caption2": "\\ud83d\\ude00"}\n',
        encoding="utf-8",
    )
    return of_file(path)


def csv_utf8(folder: Path) -> tuple[bytes, Read]:
    return of_file(write_table(folder / "c.csv", ROWS))


def csv_gbk(folder: Path) -> tuple[bytes, Read]:
    return of_file(write_table(folder / "c.csv", ROWS, encoding="gb18030", delimiter=";"))


def tsv_utf16(folder: Path) -> tuple[bytes, Read]:
    return of_file(write_table(folder / "c.tsv", ROWS, encoding="utf-16", delimiter="\t"))


def flickr(folder: Path) -> tuple[bytes, Read]:
    (folder / "x.token.txt").write_text(FLICKR, encoding="utf-8")
    return of_file(folder / "x.token.txt")


def xlsx(folder: Path) -> tuple[bytes, Read]:
    return of_file(write_sheet(folder / "c.xlsx", [], ROWS))


def xlsx_part(name: str) -> Callable[[Path], tuple[bytes, Read]]:
    """One part of a workbook, broken inside of a sound archive."""

    def make(folder: Path) -> tuple[bytes, Read]:
        def read(data: bytes) -> object:
            with zipfile.ZipFile(folder / "c.xlsx", "w", zipfile.ZIP_STORED) as archive:
                for each, text in EXCEL.items():
                    archive.writestr(each, data if each == name else text)
            return everything(folder / "c.xlsx")

        return EXCEL[name].encode(), read

    return make


def clip(folder: Path, part: str) -> tuple[bytes, Read]:
    texts = [("一只狗", [1, "2"]), ("没有", []), ("猫", [3])]
    pictures = {"1": b"dog" * 20, "2": bytes(range(90)), "3": b"cat" * 20}
    file = write_clip(folder, "train", pictures, texts) / f"train_{part}"
    return of_file(file)


READERS: dict[str, Callable[[Path], tuple[bytes, Read]]] = {
    "json": json_list,
    "jsonl": jsonl,
    "csv": csv_utf8,
    "csv-gbk": csv_gbk,
    "tsv-utf16": tsv_utf16,
    "flickr": flickr,
    "xlsx": xlsx,
    "xlsx-sheet": xlsx_part("xl/worksheets/sheet1.xml"),
    "xlsx-strings": xlsx_part("xl/sharedStrings.xml"),
    "xlsx-book": xlsx_part("xl/workbook.xml"),
    "clip-imgs": lambda folder: clip(folder, "imgs.tsv"),
    "clip-texts": lambda folder: clip(folder, "texts.jsonl"),
}


def broken_files(reader: str, folder: Path, count: int) -> int:
    """How many of ``count`` broken files were read all the same."""
    valid, read = READERS[reader](folder)
    read(valid)
    return survives(read, mutations(valid, count, seed=zlib.crc32(reader.encode())))


@pytest.mark.parametrize("reader", READERS)
def test_broken_files_end_in_a_sentence(reader: str, tmp_path: Path) -> None:
    assert 0 < broken_files(reader, tmp_path, 300) < 300


@pytest.mark.exhaustive
@pytest.mark.parametrize("reader", READERS)
def test_ten_thousand_broken_files_end_in_a_sentence(reader: str, tmp_path: Path) -> None:
    assert 0 < broken_files(reader, tmp_path, 10_000) < 10_000


def test_mutations_are_the_same_for_the_same_seed() -> None:
    first, again = ([*mutations(b"hello, world", 200, 3)] for _ in range(2))
    assert first == again
    assert len(set(first)) > 100
    assert first != [*mutations(b"hello, world", 200, 4)]


def test_the_check_of_survival_can_fail() -> None:
    with pytest.raises(AssertionError, match="input 0 ended in ZeroDivisionError"):
        survives(lambda data: 1 / 0, iter([b"x"]))
