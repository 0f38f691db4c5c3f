"""Which files --captions names, and which layout each of them has."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.captions.writers import write_clip, write_list, write_sheet
from wentu import captions
from wentu.captions.places import kind_of
from wentu.errors import InputError


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("[]")


def test_a_folder_means_the_captions_in_it(tmp_path: Path) -> None:
    touch(tmp_path, "b.json", "a.json", "notes.txt", "x.csv", ".hidden.json", "x.jpg")
    assert [path.name for path in captions.caption_files(str(tmp_path))] == ["a.json", "b.json"]


def test_a_folder_of_tables(tmp_path: Path) -> None:
    touch(tmp_path, "描述.csv", "~$b.xlsx", "b.xlsx", "readme.txt", "Flickr8k.token.txt")
    names = [path.name for path in captions.caption_files(str(tmp_path))]
    assert names == ["Flickr8k.token.txt", "b.xlsx", "描述.csv"]


def test_a_file_may_be_named_by_a_uri(tmp_path: Path) -> None:
    path = write_list(tmp_path / "描述 1.json", [])
    assert captions.caption_files(path.as_uri()) == [path]


def test_a_place_is_read_once(tmp_path: Path) -> None:
    path = write_list(tmp_path / "c.json", [])
    assert captions.caption_files(f"{path}\n\n {tmp_path} \n") == [path]


def test_either_file_of_chinese_clip_means_both(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "data", "train", {}, [])
    both = [folder / "train_imgs.tsv", folder / "train_texts.jsonl"]
    for place in (folder, *both):
        assert captions.caption_files(str(place)) == both
    both[1].unlink()
    with pytest.raises(InputError, match=r"needs train_texts\.jsonl beside it"):
        captions.caption_files(str(both[0]))


# --- two languages ------------------------------------------------------------------------------


def test_two_languages_in_a_folder_are_refused_with_the_option(tmp_path: Path) -> None:
    touch(tmp_path, "cn_train.json", "en_train.json", "cn_val.json")
    with pytest.raises(InputError, match=r"two languages .*--captions-lang cn"):
        captions.caption_files(str(tmp_path))
    with pytest.raises(InputError, match="--captions-lang"):
        captions.expand(str(tmp_path), "")


@pytest.mark.parametrize(
    ("language", "names"), [("cn", ["cn_train.json", "cn_val.json"]), ("en", ["en_train.json"])]
)
def test_a_folder_becomes_its_files_of_one_language(
    tmp_path: Path, language: str, names: list[str]
) -> None:
    touch(tmp_path / "a", "cn_train.json", "en_train.json", "cn_val.json", "other.json")
    file = write_list(tmp_path / "en_more.json", [])
    expanded = captions.expand(f"{tmp_path / 'a'}\n{file}", language)
    assert expanded == "\n".join([*(str(tmp_path / "a" / name) for name in names), str(file)])
    assert captions.expand(expanded, language) == expanded


def test_one_language_needs_no_option(tmp_path: Path) -> None:
    touch(tmp_path, "cn_train.json", "extra.json")
    both = [tmp_path / "cn_train.json", tmp_path / "extra.json"]
    assert captions.caption_files(str(tmp_path)) == both
    assert captions.expand(str(tmp_path), "") == "\n".join(map(str, both))


def test_a_language_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    touch(tmp_path, "cn_train.json")
    with pytest.raises(InputError, match="no en_ file"):
        captions.expand(str(tmp_path), "en")
    with pytest.raises(InputError, match="give cn or en"):
        captions.expand(str(tmp_path), "fr")


@pytest.mark.parametrize("value", captions.NO_FILES)
def test_values_that_are_no_files_stay(value: str) -> None:
    assert captions.expand(value, "cn") == value


# --- kinds and mistakes -------------------------------------------------------------------------


def test_a_workbook_is_known_by_its_content(tmp_path: Path) -> None:
    path = write_sheet(tmp_path / "captions.csv", [("图片", "描述")])
    assert kind_of(path) == "sheet"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.xls", b"anything", "old Excel file or has a password"),
        ("a.xlsx", b"\xd0\xcf\x11\xe0rest", "old Excel file or has a password"),
        ("a.docx", b"text", r"captions are read from \.json, \.jsonl"),
        ("captions", b"text", r"captions are read from"),
    ],
)
def test_other_files_are_a_sentence(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        list(captions.read(str(tmp_path / name)))


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    sentence = "--captions .*nothing.json: no such file; give a captions file, its folder, names"
    with pytest.raises(InputError, match=sentence):
        captions.caption_files(str(tmp_path / "nothing.json"))


def test_a_folder_without_captions_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no captions in that folder"):
        captions.caption_files(str(tmp_path))


def test_sentences_exist_in_chinese(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WENTU_LANG", "zh")
    with pytest.raises(InputError, match="文件不存在"):
        captions.caption_files(str(tmp_path / "nothing.json"))
