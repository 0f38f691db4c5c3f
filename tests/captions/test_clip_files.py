"""Chinese-CLIP's TSV + JSONL: pictures by what they are, ids as the user has them."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.captions.writers import write_clip, write_lines
from wentu import captions
from wentu.captions import Row
from wentu.errors import FormatError
from wentu.formats import bytes_digest

DOG, CAT = b"\xff\xd8dog" * 20, b"\x89PNGcat" * 20


def read(place: Path) -> list[Row]:
    return list(captions.read(str(place)))


def test_pictures_are_known_by_their_bytes(tmp_path: Path) -> None:
    texts = [("一只狗", [7]), (" 动物 ", ["7", 9]), ("没有图片", [])]
    folder = write_clip(tmp_path / "data", "valid", {"7": DOG, "9": CAT, "12": b"x" * 40}, texts)
    rows = read(folder)
    assert [(row.own_id, row.captions, row.digest) for row in rows] == [
        ("7", ("一只狗",), bytes_digest(DOG)),
        ("7", ("动物",), bytes_digest(DOG)),
        ("9", ("动物",), bytes_digest(CAT)),
        ("12", (), bytes_digest(b"x" * 40)),
    ]
    assert [row.split for row in rows] == ["valid"] * 3 + [None]
    assert {row.image for row in rows} == {""}
    assert rows[1].where == "valid_texts.jsonl, line 2"
    assert read(folder / "valid_imgs.tsv") == read(folder / "valid_texts.jsonl") == rows
    told = "valid_texts.jsonl: Chinese-CLIP, with valid_imgs.tsv; split valid"
    assert captions.describe(str(folder)) == [told]


def test_all_splits_of_a_folder_are_read(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_clip(tmp_path, split, {"1": DOG}, [("狗", [1])])
    (tmp_path / "other.json").write_text("[]")
    assert [row.split for row in read(tmp_path)] == ["test", "train"]


@pytest.mark.parametrize("form", ["urlsafe", "standard", "unpadded"])
@pytest.mark.parametrize("header", [b"", b"id\timage\n", b"\xef\xbb\xbfimg_id\tbase64\r\n\n"])
def test_either_alphabet_a_header_and_blank_lines(tmp_path: Path, form: str, header: bytes) -> None:
    data = bytes(range(251, 256)) * 20 + b"!"
    code = base64.standard_b64encode(data)
    code = {"urlsafe": base64.urlsafe_b64encode(data), "unpadded": code.rstrip(b"=")}.get(
        form, code
    )
    write_clip(tmp_path, "train", {}, [("狗", ["007"])])
    (tmp_path / "train_imgs.tsv").write_bytes(header + b"7\t" + code + b"\r\n\r\n\n")
    (row,) = read(tmp_path)
    assert (row.own_id, row.digest) == ("7", bytes_digest(data))


def test_an_id_that_no_picture_has_is_named(tmp_path: Path) -> None:
    write_clip(tmp_path, "train", {"1": DOG}, [("狗", [1, 2])])
    assert [(row.image, row.own_id) for row in read(tmp_path)] == [("", "1"), ("2", "2")]
    assert [row.digest is None for row in read(tmp_path)] == [False, True]


def test_the_same_line_twice_is_one_picture_and_another_is_a_mistake(tmp_path: Path) -> None:
    write_clip(tmp_path, "train", {"1": DOG, "01": DOG}, [("狗", [1])])
    assert len(read(tmp_path)) == 1
    write_clip(tmp_path, "train", {"1": DOG, "01": CAT}, [("狗", [1])])
    with pytest.raises(FormatError, match="line 2: the id 1 stands on another picture in line 1"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("tsv", "sentence"),
    [
        (b"1\t" + b"A" * 41, r"train_imgs\.tsv, line 1: expected an id, a tab and"),
        (b"1\tQUJD\n2\tQU?D\n", "line 2: expected an id"),
        (b"1\tQUJD\n2\t\n", "line 2: expected an id"),
        (b"1\tQUJD\n2\n", "line 2: expected an id"),
        (b"1\tQUJD\nname\tQU=D\n", "line 2: expected an id"),
        (b"1\tQUJD\n" + b"9" * 200 + b"\tQUJD", r"line 2: '9{40}' is no id"),
        (b"1\tQUJD\n\xff\tQU\tJD", "line 2: expected an id"),
    ],
)
def test_a_bad_picture_names_its_line(tmp_path: Path, tsv: bytes, sentence: str) -> None:
    write_clip(tmp_path, "train", {}, [("狗", [1])])
    (tmp_path / "train_imgs.tsv").write_bytes(tsv)
    with pytest.raises(FormatError, match=sentence):
        read(tmp_path)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"text_id": 1, "text": "狗"}', 'line 2: expected "text" and "image_ids"'),
        ('{"text_id": 1, "text": null, "image_ids": []}', "line 2: expected"),
        ('{"text_id": 1, "text": "狗", "image_ids": [1.5]}', r"line 2: '1\.5' is no id"),
        ('{"text_id": 1, "text": "狗", "image_ids": [null]}', "line 2: 'None' is no id"),
        ("[1]", "line 2: expected"),
        ("{", r"train_texts\.jsonl, line 2: not valid JSON"),
    ],
)
def test_a_bad_text_names_its_line(tmp_path: Path, line: str, sentence: str) -> None:
    write_clip(tmp_path, "train", {"1": DOG}, [])
    (tmp_path / "train_texts.jsonl").write_text(f"\n{line}\n", encoding="utf-8")
    with pytest.raises(FormatError, match=sentence):
        read(tmp_path)


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)
@given(
    pictures=st.dictionaries(st.integers(0), st.binary(min_size=1), max_size=6),
    texts=st.lists(st.tuples(st.text(min_size=1), st.sets(st.integers(0, 5))), max_size=6),
)
def test_anything_is_read_as_it_was_written(
    tmp_path: Path, pictures: dict[int, bytes], texts: list[tuple[str, set[int]]]
) -> None:
    ids = list(pictures)
    linked = [(text, [ids[at] for at in sorted(places) if at < len(ids)]) for text, places in texts]
    folder = write_clip(tmp_path, "train", {str(key): pictures[key] for key in ids}, linked)
    expected = [
        (str(key), bytes_digest(pictures[key]), (text.strip(),) if text.strip() else ())
        for text, keys in linked
        for key in keys
    ]
    used = {key for _, keys in linked for key in keys}
    expected += [(str(key), bytes_digest(pictures[key]), ()) for key in ids if key not in used]
    assert [(row.own_id, row.digest, row.captions) for row in read(folder)] == expected


MEASURE = """
import sys
from pathlib import Path
from wentu import captions

def anonymous():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous"))

list(captions.read(sys.argv[1]))
before = anonymous()
for row in captions.read(sys.argv[2]):
    pass
print((anonymous() - before) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
def test_ids_are_not_kept_in_memory(tmp_path: Path) -> None:
    few = write_clip(tmp_path / "few", "train", {"1": DOG}, [("狗", [1])])
    many = write_clip(
        tmp_path / "many", "train", {str(n): b"%d" % n for n in range(50_000)}, [("狗", [1])]
    )
    command = [sys.executable, "-c", MEASURE, str(few), str(many)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100 * 50_000


def test_entries_of_jsonl_beside_are_not_confused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "my_texts2.jsonl", [{"image": "a.jpg", "text": "狗"}])
    assert [row.image for row in read(path)] == ["a.jpg"]
