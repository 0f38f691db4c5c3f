"""JSON in the style of Flickr8K-CN, and JSONL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.captions.writers import write_lines, write_list
from wentu import captions
from wentu.captions import Row
from wentu.errors import FormatError

SAID = st.lists(st.tuples(st.text(), st.lists(st.text(), max_size=3)), max_size=8)
anywhere = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)


def test_captions_are_trimmed_and_empty_ones_dropped(tmp_path: Path) -> None:
    path = write_list(tmp_path / "c.json", [("a.jpg", [" 一只狗 ", "", "\u3000", "狗"])])
    where = "c.json, entry 1"
    found = list(captions.read(str(path)))
    assert found == [Row(image="a.jpg", captions=("一只狗", "狗"), split=None, where=where)]


def test_a_single_caption_need_not_be_a_list(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('[{"image": "a.jpg", "caption": "狗"}]', encoding="utf-8")
    assert next(captions.read(str(path))).captions == ("狗",)


def test_several_files_are_read_one_a_line(tmp_path: Path) -> None:
    names = ("cn_train.json", "图 cn_val.json", "more.json")
    paths = [write_list(tmp_path / name, [(name, ["狗"])]) for name in names]
    found = list(captions.read("\n".join(map(str, paths))))
    assert [(row.image, row.split) for row in found] == [
        ("cn_train.json", "train"),
        ("图 cn_val.json", "valid"),
        ("more.json", None),
    ]


ENTRY = {"文件名": "a\\b.jpg", "描述1": "狗", "描述2": ["黑狗", ""], "id": 7, "划分": "测试"}


@pytest.mark.parametrize("name", ["c.json", "c.jsonl"])
def test_keys_may_have_the_names_of_columns(tmp_path: Path, name: str) -> None:
    text = json.dumps(ENTRY if name == "c.jsonl" else [ENTRY])
    (tmp_path / name).write_text(text)
    (row,) = captions.read(str(tmp_path / name))
    assert (row.image, row.captions) == ("a/b.jpg", ("狗", "黑狗"))
    assert (row.own_id, row.split) == ("7", "test")


def test_lines_may_be_in_any_encoding_and_empty(tmp_path: Path) -> None:
    text = '\n{"image": "a.jpg", "text": "狗"}\r\n\r\n{"image": "b.jpg", "text": ["猫"]}'
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "gb18030"):
        path = tmp_path / "val.jsonl"
        path.write_bytes(text.encode(encoding))
        rows = list(captions.read(str(path)))
        assert [(row.image, row.captions, row.split) for row in rows] == [
            ("a.jpg", ("狗",), "valid"),
            ("b.jpg", ("猫",), "valid"),
        ]
        assert [row.where for row in rows] == ["val.jsonl, line 2", "val.jsonl, line 4"]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"images": []}, r"c\.json: expected a list of"),
        (
            [{"image": "a.jpg", "caption": ["狗"]}, {"image": "b.jpg"}],
            r"c\.json, entry 2: expected",
        ),
        ([{"who": "a.jpg", "caption": ["狗"]}], r'c\.json, entry 1: expected "image"'),
        ([{"image": 5, "caption": ["狗"]}], r"c\.json, entry 1: expected"),
        (["a.jpg"], r"c\.json, entry 1: expected"),
        ([{"image": "a.jpg", "caption": None}], r"c\.json, entry 1: expected"),
        ([{"image": "a.jpg", "caption": "狗", "split": "x"}], r"entry 1: 'x' is no split"),
    ],
)
def test_another_layout_is_named_with_its_place(
    tmp_path: Path, value: object, sentence: str
) -> None:
    (tmp_path / "c.json").write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(FormatError, match=sentence):
        list(captions.read(str(tmp_path / "c.json")))


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("c.json", '[{"image": "a.jpg",\n "caption" "狗"}]', "line 2, column 12"),
        ("c.json", "[" * 100_000, "not valid JSON"),
        ("c.json", "[" + "9" * 5000 + "]", "not valid JSON"),
        ("c.jsonl", '{"image": "a.jpg", "text": "狗"}\n{"image"', r"line 2: .* at column 9"),
        ("c.jsonl", "[" * 100_000, r"c\.jsonl, line 1: not valid JSON"),
        ("c.jsonl", "9" * 5000, r"line 1: not valid JSON"),
        ("c.jsonl", '"a.jpg"', r"c\.jsonl, line 1: expected"),
    ],
)
def test_broken_json_names_its_place(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=sentence):
        list(captions.read(str(tmp_path / name)))


def test_half_an_emoji_breaks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(r'[{"image": "\ud83d.jpg", "caption": "笑\ude00", "id": "\ud83d"}]', "utf-8")
    (row,) = captions.read(str(path))
    assert (row.image, row.captions, row.own_id) == ("?.jpg", ("笑?",), "?")


def test_a_description_says_what_it_is(tmp_path: Path) -> None:
    write_list(tmp_path / "cn_val.json", [])
    write_lines(tmp_path / "c.jsonl", [])
    both = f"{tmp_path / 'cn_val.json'}\n{tmp_path / 'c.jsonl'}"
    assert captions.describe(both) == ["cn_val.json: JSON; split valid", "c.jsonl: JSONL"]


def read_back(path: Path) -> list[tuple[str, tuple[str, ...]]]:
    return [(row.image, row.captions) for row in captions.read(str(path))]


def expected(said: list[tuple[str, list[str]]]) -> list[tuple[str, tuple[str, ...]]]:
    from wentu.captions.rows import clean_image

    return [
        (clean_image(image), tuple(text.strip() for text in texts if text.strip()))
        for image, texts in said
    ]


@anywhere
@given(said=SAID)
def test_any_list_is_read_as_it_was_written(
    tmp_path: Path, said: list[tuple[str, list[str]]]
) -> None:
    assert read_back(write_list(tmp_path / "c.json", said)) == expected(said)


@anywhere
@given(said=SAID)
def test_any_lines_are_read_as_they_were_written(
    tmp_path: Path, said: list[tuple[str, list[str]]]
) -> None:
    entries: list[dict[str, Any]] = [{"picture": name, "captions": texts} for name, texts in said]
    assert read_back(write_lines(tmp_path / "c.jsonl", entries)) == expected(said)
