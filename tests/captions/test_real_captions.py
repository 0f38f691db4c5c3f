"""Real captions: found in their collection, and the same in every layout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.captions.writers import write_clip, write_lines, write_sheet, write_table
from wentu import captions
from wentu.captions import Finder
from wentu.errors import InputError
from wentu.formats import bytes_digest, create_catalog

Said = set[tuple[str, str, str | None]]


@pytest.fixture
def flickr(data: Path) -> Path:
    return data / "flickr8k-cn"


@pytest.fixture
def entries(flickr: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((flickr / "cn_val.json").read_text("utf-8"))
    return found


def said(place: Path | str) -> Said:
    return {
        (row.image, text, row.split) for row in captions.read(str(place)) for text in row.captions
    }


@pytest.fixture
def expected(entries: list[dict[str, Any]]) -> Said:
    return {
        (entry["image"], text.strip(), "valid") for entry in entries for text in entry["caption"]
    }


def one_a_row(entries: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    return ((entry["image"], text) for entry in entries for text in entry["caption"])


@pytest.mark.parametrize(
    ("name", "split", "count"),
    [
        ("cn_train", "train", 2400),
        ("cn_val", "valid", 300),
        ("en_train", "train", 2400),
        ("en_val", "valid", 300),
    ],
)
def test_real_captions_find_their_pictures(
    flickr: Path, tmp_path: Path, name: str, split: str, count: int
) -> None:
    file = str(flickr / f"{name}.json")
    rows = list(captions.read(file))
    assert len(rows) == count
    assert {row.split for row in rows} == {split}
    assert all(1 <= len(row.captions) <= 5 for row in rows)
    with closing(create_catalog(tmp_path / "catalog.sqlite")) as catalog:
        paths = [path.relative_to(flickr).as_posix() for path in flickr.rglob("*.jpg")]
        catalog.executemany(
            "INSERT INTO paths VALUES (?, ?)", [(p, n) for n, p in enumerate(paths)]
        )
        finder = Finder(catalog, str(flickr), file)
        assert None not in {finder.find(row) for row in rows}


def test_the_real_folder_asks_for_a_language(flickr: Path) -> None:
    with pytest.raises(InputError, match="--captions-lang cn"):
        captions.caption_files(str(flickr))
    expanded = captions.expand(str(flickr), "en")
    assert [Path(line).name for line in expanded.splitlines()] == ["en_train.json", "en_val.json"]


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-16"])
def test_the_same_as_csv(
    entries: list[dict[str, Any]], expected: Said, tmp_path: Path, encoding: str
) -> None:
    rows = [("图片名", "描述"), *one_a_row(entries)]
    assert said(write_table(tmp_path / "cn_val.csv", rows, encoding=encoding)) == expected
    wide = [("id", "picture", "split", *(f"caption{n}" for n in range(1, 6)))]
    wide += [(str(n), e["image"], "val", *e["caption"]) for n, e in enumerate(entries)]
    assert said(write_table(tmp_path / "wide.csv", wide, encoding=encoding)) == expected


def test_the_same_in_flickrs_own_form(
    entries: list[dict[str, Any]], expected: Said, tmp_path: Path
) -> None:
    path = tmp_path / "val.token.txt"
    lines = [
        f"{image}#{number % 5}\t{text}\n" for number, (image, text) in enumerate(one_a_row(entries))
    ]
    path.write_text("".join(lines), encoding="utf-8")
    assert said(path) == expected


def test_the_same_as_xlsx(entries: list[dict[str, Any]], expected: Said, tmp_path: Path) -> None:
    rows = [("序号", "图片", "描述", "划分")]
    rows += [(n, image, text, "验证集") for n, (image, text) in enumerate(one_a_row(entries))]
    assert said(write_sheet(tmp_path / "描述.xlsx", [], rows)) == expected


def test_the_same_as_jsonl(entries: list[dict[str, Any]], expected: Said, tmp_path: Path) -> None:
    assert said(write_lines(tmp_path / "val.jsonl", entries)) == expected


def test_the_same_in_chinese_clips_form(
    flickr: Path, entries: list[dict[str, Any]], expected: Said, tmp_path: Path
) -> None:
    pictures = {str(n): (flickr / e["image"]).read_bytes() for n, e in enumerate(entries)}
    texts = [(text, [n]) for n, entry in enumerate(entries) for text in entry["caption"]]
    folder = write_clip(tmp_path / "clip", "valid", pictures, texts)
    image_of = {bytes_digest(pictures[str(n)]): e["image"] for n, e in enumerate(entries)}
    rows = list(captions.read(str(folder)))
    assert {
        (image_of[row.digest or b""], text, row.split) for row in rows for text in row.captions
    } == (expected)
    assert [row.own_id for row in rows] == [str(n) for n in range(300) for _ in range(5)]
