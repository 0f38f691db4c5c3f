"""What all layouts share: words of columns and keys, splits, clean text."""

from __future__ import annotations

from pathlib import Path

import pytest

from wentu import captions
from wentu.captions.rows import clean_image, clean_texts, fields_by_words, is_picture, split_word
from wentu.errors import FormatError


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("cn_train.json", "train"),
        ("cn_val.json", "valid"),
        ("en-valid.json", "valid"),
        ("dev.json", "valid"),
        ("MyTest2017.json", None),
        ("my_TEST2017.json", "test"),
        ("train_test.json", "test"),
        ("latest.json", None),
        ("trains.json", None),
        ("描述.json", None),
        ("训练集.csv", "train"),
        ("valid_texts.jsonl", "valid"),
    ],
)
def test_the_split_is_what_the_name_of_the_file_says(name: str, split: str | None) -> None:
    assert captions.split_of(Path("train") / name) == split


@pytest.mark.parametrize(
    ("names", "picture", "texts", "split", "own"),
    [
        (("image", "caption"), 0, (1,), None, None),
        (("编号", "图片", "描述", "划分"), 1, (2,), 3, 0),
        (("Caption 1", "FILE_NAME", "caption_2", "Caption3"), 1, (0, 2, 3), None, None),
        (("描述1", "描述2", "图片名"), 2, (0, 1), None, None),
        (("image_id", "image_path", "text", "Split"), 1, (2,), 3, 0),
        (("图片", "图片路径", "标题", "描述"), 1, (3,), None, None),
        (("檔名", "說明"), 0, (1,), None, None),
        (("ＩＭＡＧＥ", "Ｃａｐｔｉｏｎ"), 0, (1,), None, None),
        (("a", "b"), None, (), None, None),
        ((), None, (), None, None),
    ],
)
def test_fields_go_by_their_words(
    names: tuple[str, ...],
    picture: int | None,
    texts: tuple[int, ...],
    split: int | None,
    own: int | None,
) -> None:
    found = fields_by_words(names)
    assert (found.picture, found.captions, found.split, found.own_id) == (
        picture,
        texts,
        split,
        own,
    )


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (r"a\b\x.jpg", "a/b/x.jpg"),
        ("x.JPG#12", "x.JPG"),
        ("x#1.png", "x#1.png"),
        (" x.jpg\u3000", "x.jpg"),
        ("\ud83d.jpg", "?.jpg"),
    ],
)
def test_pictures_are_read_with_any_slash(text: str, clean: str) -> None:
    assert clean_image(text) == clean


def test_captions_are_trimmed_and_what_is_none_is_dropped() -> None:
    given = [" 一只狗 ", "", "\u3000", None, 5, "笑\ud83d"]
    assert clean_texts(given) == ("一只狗", "笑?")


@pytest.mark.parametrize(
    "text", ["a.jpg", "目录/图 1.PNG", r"C:\x\y.webp", "x.jpg#3", "a.heic", "mmexport1.jpg!large"]
)
def test_names_of_pictures_are_known(text: str) -> None:
    assert is_picture(text)


@pytest.mark.parametrize("text", ["", ".jpg", "jpg", "一只狗", "a.jpg 里有狗", "a.csv"])
def test_other_texts_are_no_names_of_pictures(text: str) -> None:
    assert not is_picture(text)


def test_splits_are_named_in_both_languages() -> None:
    assert [
        split_word(text, "") for text in ("Train", "验证集", "test ", "dev", "restval", "")
    ] == [
        "train",
        "valid",
        "test",
        "valid",
        "train",
        None,
    ]
    with pytest.raises(FormatError, match=r"x\.csv, line 3: 'coco' is no split"):
        split_word("coco", "x.csv, line 3")
