"""CSV and TSV: any delimiter, any encoding, any header, and what was decided is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.captions.writers import write_table
from wentu import captions
from wentu.captions.rows import is_picture
from wentu.errors import FormatError, InputError, WentuError

Found = list[tuple[str, tuple[str, ...]]]
TWO = [("a.jpg", ("一只狗",)), ("b.jpg", ("两只猫",))]


def save(tmp_path: Path, text: str, name: str = "c.csv", encoding: str = "utf-8") -> str:
    (tmp_path / name).write_bytes(text.encode(encoding))
    return str(tmp_path / name)


def found(place: str, **columns: str) -> Found:
    return [(row.image, row.captions) for row in captions.read(place, **columns)]


# --- how it is written ---------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gbk", "gb18030"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_any_delimiter_in_any_encoding(tmp_path: Path, encoding: str, delimiter: str) -> None:
    rows = [("图片", "描述"), ("a.jpg", "一只狗"), ("b.jpg", "两只猫")]
    path = write_table(tmp_path / "c.csv", rows, encoding=encoding, delimiter=delimiter)
    assert found(str(path)) == TWO


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_end_of_line_and_empty_rows(tmp_path: Path, end: str) -> None:
    lines = ["", "image,caption", "", "a.jpg,一只狗", ",", " , ", "b.jpg,两只猫"]
    assert found(save(tmp_path, end.join(lines))) == TWO


def test_big_endian_utf16(tmp_path: Path) -> None:
    text = "\ufeff图片\t描述\na.jpg\t一只狗\nb.jpg\t两只猫"
    assert found(save(tmp_path, text, "c.txt", "utf-16-be")) == TWO


def test_line_breaks_and_delimiters_inside_of_quotes(tmp_path: Path) -> None:
    text = 'image,caption\n"a, 1.jpg","一只狗\n""大""的; 黑的"\nb.jpg, "猫,两只"\n'
    place = save(tmp_path, text)
    assert found(place) == [("a, 1.jpg", ('一只狗\n"大"的; 黑的',)), ("b.jpg", ("猫,两只",))]
    assert [row.where for row in captions.read(place)] == ["c.csv, line 2", "c.csv, line 4"]


def test_texts_with_unquoted_delimiters_in_the_last_column(tmp_path: Path) -> None:
    text = "image,caption\na.jpg,a dog, black, runs\nb.jpg,a cat\n"
    assert found(save(tmp_path, text)) == [
        ("a.jpg", ("a dog, black, runs",)),
        ("b.jpg", ("a cat",)),
    ]
    text = "a.jpg,a dog, black, runs\nb.jpg,a cat\nc.jpg,a mouse\n"
    assert found(save(tmp_path, text))[0] == ("a.jpg", ("a dog, black, runs",))


def test_flickrs_own_form(tmp_path: Path) -> None:
    text = 'x_1.jpg#0\t" Stop , " says a sign .\nx_1.jpg#1\tA sign\nx_2.JPG#0\tTwo , three\n'
    for name in ("Flickr8k.token.txt", "results.token", "captions.txt"):
        assert found(save(tmp_path, text, name)) == [
            ("x_1.jpg", ('" Stop , " says a sign .',)),
            ("x_1.jpg", ("A sign",)),
            ("x_2.JPG", ("Two , three",)),
        ]


# --- columns -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.jpg,一只狗\nb.jpg,两只猫", TWO),
        ("一只狗,a.jpg\n两只猫,b.jpg", TWO),
        ("foo,bar\na.jpg,一只狗\nb.jpg,两只猫", TWO),
        ("file,内容物\na.jpg,一只狗\nb.jpg,两只猫", TWO),
        (",图片,描述\n0,a.jpg,一只狗\n1,b.jpg,两只猫", TWO),
        ("7,a.jpg,train,一只狗\n8,b.jpg,val,两只猫", TWO),
        ("描述,大小,图片名\n一只狗,5,a.jpg\n两只猫,6,b.jpg", TWO),
        (
            "图片,描述1,描述2\na.jpg,狗,黑狗\nb.jpg,猫,",
            [("a.jpg", ("狗", "黑狗")), ("b.jpg", ("猫",))],
        ),
        ("图片,描述\na.jpg\nb.jpg,,,", [("a.jpg", ()), ("b.jpg", ())]),
        ("图片,描述", []),
        (r"图片,描述" "\n" r"D:\图\a.jpg,狗", [("D:/图/a.jpg", ("狗",))]),
    ],
)
def test_columns_are_guessed(tmp_path: Path, text: str, expected: Found) -> None:
    assert found(save(tmp_path, text)) == expected


def test_a_column_of_splits_wins_over_the_name_of_the_file(tmp_path: Path) -> None:
    place = save(tmp_path, "id,图片,描述,划分\n7,a.jpg,狗,测试\n8,b.jpg,猫,\n", "train.csv")
    rows = list(captions.read(place))
    assert [(row.split, row.own_id) for row in rows] == [("test", "7"), ("train", "8")]


AMBIGUOUS = "a,b,c\nx1,一只狗,旧\nx2,两只猫,新\n"


@pytest.mark.parametrize(("picture", "caption"), [("a", "b"), ("1", "2"), (" A ", "2"), ("1", "b")])
def test_columns_may_be_named_or_numbered(tmp_path: Path, picture: str, caption: str) -> None:
    header = picture.strip().lower() == "a" or caption == "b"
    rows = found(save(tmp_path, AMBIGUOUS), picture_column=picture, caption_column=caption)
    assert rows[-2:] == [("x1", ("一只狗",)), ("x2", ("两只猫",))]
    assert len(rows) == (2 if header else 3)  # of numbers alone the first row is a picture's


def test_several_columns_may_be_captions(tmp_path: Path) -> None:
    place = save(tmp_path, "x.jpg,狗,黑狗,12\ny.jpg,猫,白猫,13\n")
    assert found(place, caption_column="2,3") == [
        ("x.jpg", ("狗", "黑狗")),
        ("y.jpg", ("猫", "白猫")),
    ]
    place = save(tmp_path, "图片,b1,c\nx.jpg,狗,黑狗")
    assert found(place, caption_column="c, b1") == [("x.jpg", ("黑狗", "狗"))]


@pytest.mark.parametrize(
    ("text", "columns", "listed"),
    [
        (AMBIGUOUS, {}, "1 a, 2 b, 3 c"),
        (AMBIGUOUS, {"picture_column": "d"}, "with --picture-column d; its columns: 1 a, 2 b, 3 c"),
        (AMBIGUOUS, {"picture_column": "1", "caption_column": "4"}, "--caption-column 4"),
        (AMBIGUOUS, {"picture_column": "1", "caption_column": "1"}, "1 a, 2 b, 3 c"),
        ("x.jpg,狗,黑狗\ny.jpg,猫,白猫", {}, r"1 x\.jpg, 2 狗, 3 黑狗"),
        ("x.jpg\ny.jpg", {}, r"1 x\.jpg\."),
        ("一些文字\n没有图片", {}, "1 一些文字"),
        ("id,caption\n1,狗", {}, "1 id, 2 caption"),
    ],
)
def test_what_cannot_be_told_lists_the_columns(
    tmp_path: Path, text: str, columns: dict[str, str], listed: str
) -> None:
    place = save(tmp_path, text)
    with pytest.raises(InputError, match=listed) as caught:
        found(place, **columns)
    assert "--picture-column and --caption-column" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "encoding", "told"),
    [
        ("图片名,描述\na.jpg,狗", "gbk", "GB18030, comma; picture = 图片名, caption = 描述"),
        ("a.jpg\t狗", "utf-16", "UTF-16, tab; picture = column 1, caption = column 2 (no header)"),
        (
            "id;split;image;caption1;caption2\n1;val;a.jpg;狗;犬",
            "utf-8-sig",
            "UTF-8, semicolon; picture = image, caption = caption1 and caption2, split = split, "
            "id = id",
        ),
    ],
)
def test_what_was_decided_is_told(tmp_path: Path, text: str, encoding: str, told: str) -> None:
    assert captions.describe(save(tmp_path, text, encoding=encoding)) == [f"c.csv: {told}"]


def test_it_is_told_in_chinese_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WENTU_LANG", "zh")
    place = save(tmp_path, "a.jpg,狗", "cn_train.csv")
    told = "cn_train.csv：UTF-8，逗号；图片 = 第 1 列，描述 = 第 2 列(无表头)；划分 train"
    assert captions.describe(place) == [told]


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "error", "sentence"),
    [
        (b"", InputError, r"c\.csv is empty"),
        (b"\n \n\n", InputError, r"c\.csv is empty"),
        (b"\xef\xbb\xbf", InputError, r"c\.csv is empty"),
        (b"image,caption\n,dog\n", FormatError, "line 2: no picture is named there"),
        (b"image,caption\na.jpg,d\n\n,x", FormatError, "line 4: no picture is named there"),
        (b"image,caption\na.jpg,a\0b\n", FormatError, "line 2 holds a NUL"),
        ("图片,描述\n".encode("utf-16-le"), FormatError, "line 1 holds a NUL"),
        (b"image,caption\na.jpg,\xff\xff", FormatError, "line 2 is not UTF-8, GBK or GB18030"),
        (b"\xef\xbb\xbfimage,caption\na.jpg,\xc4\xe3", FormatError, "line 2 is not UTF-8 text"),
        ("a.jpg,狗\n".encode("utf-16") + b"\n", FormatError, "is not UTF-16 text"),
        (b'image,caption\na.jpg,"dog\n', FormatError, "line 2: a quotation mark is not closed"),
        (b'image,caption\na.jpg,"dog" x\n', FormatError, "line 2: a quotation mark"),
        (b"caption,image\na, dog,a.jpg\nb,b.jpg\n", FormatError, "line 2 has 3 columns"),
        (b"image,caption,split\na.jpg,dog,monday\n", FormatError, "line 2: 'monday' is no split"),
    ],
)
def test_mistakes_name_their_line(
    tmp_path: Path, data: bytes, error: type[WentuError], sentence: str
) -> None:
    (tmp_path / "c.csv").write_bytes(data)
    with pytest.raises(error, match=sentence):
        found(str(tmp_path / "c.csv"))


def test_a_file_that_turns_bad_late_is_refused_early(tmp_path: Path) -> None:
    good = "图片,描述\n" + "a.jpg,狗\n" * 20_000
    (tmp_path / "c.csv").write_bytes(good.encode() + b"b.jpg,\xff\n")
    with pytest.raises(FormatError, match="line 20002 is not UTF-8"):
        next(captions.read(str(tmp_path / "c.csv")))


def test_a_line_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_bytes(b"x" * (1 << 20))
    with pytest.raises(FormatError, match="more than 1,048,576 characters"):
        found(str(tmp_path / "c.csv"))


# --- anything that is written is read ------------------------------------------------------------

CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
ROWS = st.lists(
    st.tuples(CELL, CELL, CELL, st.sampled_from(["train", "val", "测试", ""])), max_size=6
)


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150
)
@given(
    rows=ROWS,
    delimiter=st.sampled_from(",\t;|"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_any_table_is_read_as_it_was_written(
    tmp_path: Path, rows: list[tuple[str, str, str, str]], delimiter: str, encoding: str
) -> None:
    named = [(f"{name}.jpg", *rest) for name, *rest in rows]
    header = ("图片", "caption1", "caption2", "split")
    path = write_table(tmp_path / "c.csv", [header, *named], delimiter=delimiter, encoding=encoding)
    splits = {"train": "train", "val": "valid", "测试": "test", "": None}
    assert [(row.image, row.captions, row.split) for row in captions.read(str(path))] == [
        (
            name.strip().replace("\\", "/"),
            tuple(text.strip() for text in (one, two) if text.strip()),
            splits[split],
        )
        for name, one, two, split in named
    ]


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100
)
@given(
    rows=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=6),
    delimiter=st.sampled_from(",\t;|"),
)
def test_any_table_without_header_is_read_as_it_was_written(
    tmp_path: Path, rows: list[tuple[str, str]], delimiter: str
) -> None:
    named = [(f"图{name}.jpg", f"描{text}") for name, text in rows]
    assume(not any(is_picture(text) for _, text in named))
    path = write_table(tmp_path / "c.csv", named, delimiter=delimiter)
    assert found(str(path)) == [
        (name.strip().replace("\\", "/"), (text.strip(),)) for name, text in named
    ]
