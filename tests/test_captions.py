"""Captions as users have them: any slash, any number of files, found wherever the pictures are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wentu import captions
from wentu.captions import Finder, Row
from wentu.errors import FormatError, InputError

Save = Callable[[Path, list[dict[str, Any]]], Path]


# --- reading ----------------------------------------------------------------------------------


def test_either_slash_is_read(tmp_path: Path, save_captions: Save) -> None:
    rows = [{"image": "a\\b\\x.jpg", "caption": ["狗"]}, {"image": "a/y.jpg", "caption": ["猫"]}]
    path = save_captions(tmp_path / "c.json", rows)
    assert [row.image for row in captions.read(str(path))] == ["a/b/x.jpg", "a/y.jpg"]


def test_captions_are_trimmed_and_empty_ones_dropped(tmp_path: Path, save_captions: Save) -> None:
    rows = [{"image": "a.jpg", "caption": [" 一只狗 ", "", "\u3000", "狗"]}]
    path = save_captions(tmp_path / "c.json", rows)
    where = "c.json, entry 1"
    found = list(captions.read(str(path)))
    assert found == [Row(image="a.jpg", captions=("一只狗", "狗"), split=None, where=where)]


def test_a_single_caption_need_not_be_a_list(tmp_path: Path, save_captions: Save) -> None:
    path = save_captions(tmp_path / "c.json", [{"image": "a.jpg", "caption": "狗"}])
    assert next(captions.read(str(path))).captions == ("狗",)


def test_several_files_are_read_one_a_line(tmp_path: Path, save_captions: Save) -> None:
    paths = [
        save_captions(tmp_path / name, [{"image": name, "caption": ["狗"]}])
        for name in ("cn_train.json", "图 cn_val.json", "more.json")
    ]
    found = list(captions.read("\n".join(map(str, paths))))
    assert [(row.image, row.split) for row in found] == [
        ("cn_train.json", "train"),
        ("图 cn_val.json", "valid"),
        ("more.json", None),
    ]


def test_a_folder_means_its_json_files(tmp_path: Path, save_captions: Save) -> None:
    for name in ("b.json", "a.json", "notes.txt"):
        save_captions(tmp_path / name, [{"image": name, "caption": ["狗"]}])
    assert [path.name for path in captions.caption_files(str(tmp_path))] == ["a.json", "b.json"]


def test_a_file_may_be_named_by_a_uri(tmp_path: Path, save_captions: Save) -> None:
    path = save_captions(tmp_path / "描述 1.json", [])
    assert captions.caption_files(path.as_uri()) == [path]


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
    ],
)
def test_the_split_is_what_the_name_of_the_file_says(name: str, split: str | None) -> None:
    assert captions.split_of(Path("train") / name) == split


# --- mistakes ---------------------------------------------------------------------------------


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    sentence = "--captions .*nothing.json: no such file; give a captions JSON, names, or none"
    with pytest.raises(InputError, match=sentence):
        captions.caption_files(str(tmp_path / "nothing.json"))


def test_a_folder_without_json_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no \.json file in that folder"):
        captions.caption_files(str(tmp_path))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"images": []}, r"c\.json: expected a list of"),
        (
            [{"image": "a.jpg", "caption": ["狗"]}, {"image": "b.jpg"}],
            r"c\.json, entry 2: expected",
        ),
        ([{"file": "a.jpg", "caption": ["狗"]}], r'c\.json, entry 1: expected "image"'),
        ([{"image": 5, "caption": ["狗"]}], r"c\.json, entry 1: expected"),
        (["a.jpg"], r"c\.json, entry 1: expected"),
        ([{"image": "a.jpg", "caption": None}], r"c\.json, entry 1: expected"),
    ],
)
def test_another_layout_is_named_with_its_place(
    tmp_path: Path, value: object, sentence: str
) -> None:
    (tmp_path / "c.json").write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(FormatError, match=sentence):
        list(captions.read(str(tmp_path / "c.json")))


def test_sentences_exist_in_chinese(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WENTU_LANG", "zh")
    with pytest.raises(InputError, match="文件不存在"):
        captions.caption_files(str(tmp_path / "nothing.json"))


# --- finding ----------------------------------------------------------------------------------


@pytest.fixture
def find(tmp_path: Path, save_captions: Save) -> Callable[..., str | None]:
    """Find a picture of a collection under ``tmp_path`` whose captions lie in ``beside``."""

    def find(image: str, paths: list[str], beside: str = "elsewhere") -> str | None:
        folder = tmp_path / beside
        folder.mkdir(parents=True, exist_ok=True)
        file = save_captions(folder / "c.json", [])
        return Finder(paths, tmp_path / "root", str(file)).find(image)

    return find


def test_a_picture_is_found_under_the_root(find: Callable[..., str | None]) -> None:
    paths = ["a/x.jpg", "b/x.jpg"]
    assert find("b/x.jpg", paths) == "b/x.jpg"
    assert find("./b/x.jpg", paths) == "b/x.jpg"


def test_a_picture_is_found_beside_the_captions(find: Callable[..., str | None]) -> None:
    paths = ["a/x.jpg", "a/pictures/x.jpg", "x.jpg", "b/pictures/x.jpg"]
    assert find("pictures/x.jpg", paths, "root/a") == "a/pictures/x.jpg"
    assert find("../b/pictures/x.jpg", paths, "root/a") == "b/pictures/x.jpg"


def test_a_picture_is_found_by_its_whole_path(
    find: Callable[..., str | None], tmp_path: Path
) -> None:
    assert find(str(tmp_path / "root/b/x.jpg"), ["a/x.jpg", "b/x.jpg"]) == "b/x.jpg"


def test_a_picture_is_found_by_its_unique_name(find: Callable[..., str | None]) -> None:
    assert find("flickr8k-images/狗.jpg", ["deep/er/狗.jpg", "猫.jpg"]) == "deep/er/狗.jpg"


def test_a_name_that_is_not_unique_finds_nothing(find: Callable[..., str | None]) -> None:
    assert find("elsewhere/x.jpg", ["a/x.jpg", "b/x.jpg"]) is None
    assert find("elsewhere/x.jpg", ["a/x.jpg", "b/x.jpg", "c/x.jpg"]) is None


def test_what_is_not_there_is_not_found(find: Callable[..., str | None]) -> None:
    assert find("y.jpg", ["x.jpg"]) is None


@pytest.mark.parametrize(
    ("path", "texts"),
    [
        ("a/雪地里两只黑狗.jpg", ("雪地里两只黑狗",)),
        ("0003-版权.png", ("0003-版权",)),
        ("a/v1.2.png", ("v1.2",)),
        (" .png", ()),
    ],
)
def test_the_name_of_a_file_is_its_caption(path: str, texts: tuple[str, ...]) -> None:
    assert captions.of_name(path) == texts


# --- real captions ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "split"), [("cn_train", "train"), ("cn_val", "valid"), ("en_val", "valid")]
)
def test_real_captions_find_their_pictures(data: Path, name: str, split: str) -> None:
    root = data / "flickr8k-cn"
    paths = [path.relative_to(root).as_posix() for path in root.rglob("*.jpg")]
    file = str(root / f"{name}.json")
    rows = list(captions.read(file))
    finder = Finder(paths, root, file)
    assert len(rows) == {"train": 2400, "valid": 300}[split]
    assert {row.split for row in rows} == {split}
    assert all(1 <= len(row.captions) <= 5 for row in rows)
    assert None not in {finder.find(row.image) for row in rows}
