"""Files that cross stages: what is written is read back, and what is broken is named."""

from __future__ import annotations

import base64
import json
import os
import pickle
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wentu import formats
from wentu.errors import FormatError, InputError
from wentu.formats import Manifest, PairsLmdb, Text

ids = st.integers(min_value=-(2**63), max_value=2**63 - 1)


def manifest(**changed: Any) -> Manifest:
    given: dict[str, Any] = {"stage": "pairs", "config": {"a": 1}, "inputs": {"b": "文"}}
    return Manifest(**given | changed)


# --- bytes, digests, ids ----------------------------------------------------------------------


@given(st.binary())
def test_an_id_is_the_first_63_bits_after_the_sign(data: bytes) -> None:
    digest = formats.bytes_digest(data)
    assert 0 <= formats.id_of(digest) < 2**63
    assert f"{int.from_bytes(digest, 'big'):0256b}"[1:64] == f"{formats.id_of(digest):063b}"


def test_the_largest_id_fits_a_signed_integer() -> None:
    assert formats.id_of(b"\xff" * 32) == 2**63 - 1


def test_a_digest_depends_on_the_value_and_not_on_its_order() -> None:
    assert formats.digest_of({"a": 1, "b": [2]}) == formats.digest_of({"b": [2], "a": 1})
    assert formats.digest_of({"a": 1}) != formats.digest_of({"a": 2})
    assert len(formats.digest_of("\ud83d 文")) == 32


def test_equal_captions_are_one_text() -> None:
    assert formats.text_id("一只狗") == formats.text_id("一只狗") != formats.text_id("一只狗 ")


def test_a_folder_is_known_by_every_file_but_its_manifest(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "文.txt").write_bytes(b"abc")
    formats.write_manifest(tmp_path, manifest())
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert formats.folder_sha256(tmp_path) == {"sub/文.txt": abc}


@given(st.lists(st.integers()), st.integers(1, 5))
def test_batches_hold_everything_in_order(items: list[int], size: int) -> None:
    batches = list(formats.batched(items, size))
    assert [item for batch in batches for item in batch] == items
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(batches)


# --- JSON -------------------------------------------------------------------------------------


def test_json_comes_back_and_is_readable(tmp_path: Path) -> None:
    path = tmp_path / "新 folder" / "a.json"
    formats.write_json(path, {"文": [1, "😀"]})
    assert formats.read_json(path) == {"文": [1, "😀"]}
    assert "文" in path.read_text(encoding="utf-8")
    assert list(path.parent.iterdir()) == [path]


def test_json_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert formats.read_json(tmp_path / "a.json") == [1]


def test_broken_json_is_named_with_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "cn_train.json"
    path.write_text('[{"image": "a.jpg"},\n {"image": oops}]')
    with pytest.raises(FormatError, match=r"cn_train\.json .*line 2, column 12"):
        formats.read_json(path)


def test_json_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gbk.json"
    path.write_bytes('["一只黑狗"]'.encode("gbk"))
    with pytest.raises(FormatError, match=r"gbk\.json is not UTF-8 \(byte \d+\)"):
        formats.read_json(path)


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.json does not exist"):
        formats.read_json(tmp_path / "nothing.json")


# --- manifest ---------------------------------------------------------------------------------


def test_a_manifest_comes_back(tmp_path: Path) -> None:
    written = manifest(counts={"pictures": 3}, code_version="0.1", seconds=1.5)
    formats.write_manifest(tmp_path, written)
    assert formats.read_manifest(tmp_path) == written
    assert formats.read_manifest(tmp_path, "pairs").digest == written.digest


def test_what_is_unfinished_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"is not finished: it has no manifest\.json"):
        formats.read_manifest(tmp_path)


@pytest.mark.parametrize("other", [0, formats.FORMAT - 1, formats.FORMAT + 1, "2", None])
def test_a_manifest_of_another_version_is_refused(tmp_path: Path, other: object) -> None:
    formats.write_manifest(tmp_path, manifest())
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": other}))
    with pytest.raises(
        FormatError, match=rf"manifest\.json has format .*, this wentu reads {formats.FORMAT};"
    ):
        formats.read_manifest(tmp_path)


def test_the_output_of_another_stage_is_refused(tmp_path: Path) -> None:
    formats.write_manifest(tmp_path, manifest(stage="features"))
    with pytest.raises(InputError, match="written by the stage features; here one of pairs"):
        formats.read_manifest(tmp_path, "pairs")


def test_an_output_is_known_by_stage_config_and_inputs_alone() -> None:
    assert manifest().digest == manifest(counts={"n": 1}, seconds=9.0, code_version="x").digest
    different = (manifest(stage="x"), manifest(config={"a": 2}), manifest(inputs={"b": "c"}))
    assert len({manifest().digest, *(each.digest for each in different)}) == 4


# --- catalog ----------------------------------------------------------------------------------


def test_a_catalog_is_read_and_not_written(tmp_path: Path) -> None:
    path = tmp_path / "100% #1 ?.sqlite"
    with closing(formats.create_catalog(path)) as db:
        db.execute("INSERT INTO paths VALUES ('a.jpg', 7)")
        db.commit()
    with closing(formats.open_catalog(path)) as db:
        assert db.execute("SELECT * FROM paths").fetchall() == [("a.jpg", 7)]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            db.execute("DELETE FROM paths")
    assert formats.count_rows(path, "paths") == 1


def test_a_missing_catalog_is_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"catalog\.sqlite does not exist"):
        formats.open_catalog(tmp_path / "catalog.sqlite")


def test_a_catalog_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    with closing(formats.create_catalog(path)) as db:
        db.execute("PRAGMA user_version = 7")
        db.commit()
    with pytest.raises(FormatError, match=rf"no catalog of format {formats.FORMAT} \(found 7\)"):
        formats.open_catalog(path)


def test_a_file_that_is_no_catalog_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 40)
    with pytest.raises(FormatError, match=f"no catalog of format {formats.FORMAT} "):
        formats.open_catalog(path)


# --- TSV + JSONL ------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.lists(st.tuples(ids, st.binary(max_size=200)), max_size=5))
def test_pictures_come_back_from_a_tsv(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("tsv") / "train_imgs.tsv"
    path.write_bytes(b"".join(formats.tsv_line(image, data) for image, data in rows))
    found = [(image, base64.urlsafe_b64decode(data)) for image, data in formats.read_tsv(path)]
    assert found == rows


def test_a_tsv_of_windows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "train_imgs.tsv"
    path.write_bytes(b"1\tQUJD\r\n2\tREVG\r\n")
    assert list(formats.read_tsv(path)) == [(1, b"QUJD"), (2, b"REVG")]


@pytest.mark.parametrize(
    "line", [b"1 QUJD", b"1\tQUJD\tx", b"x\tQUJD", b"\tQUJD", b"1.5\tQUJD", b"--5\tQUJD", b""]
)
def test_a_broken_line_of_a_tsv_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "train_imgs.tsv"
    path.write_bytes(b"1\tQUJD\n" + line + b"\n2\tQUJD\n")
    with pytest.raises(FormatError, match=r"train_imgs\.tsv, line 2: expected an integer id"):
        list(formats.read_tsv(path))


texts = st.builds(
    Text,
    text_id=ids,
    text=st.text(st.characters(codec="utf-8")),
    image_ids=st.lists(ids, max_size=4).map(tuple),
)


@settings(max_examples=100)
@given(st.lists(texts, max_size=5))
def test_captions_come_back_from_jsonl(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Text]
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "train_texts.jsonl"
    path.write_bytes("".join(row.line() for row in rows).encode())
    assert list(formats.read_texts(path)) == rows


def test_empty_lines_of_captions_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "train_texts.jsonl"
    row = Text(text_id=1, text="狗", image_ids=())
    path.write_text(f"\n{row.line()}\n  \n", encoding="utf-8")
    assert list(formats.read_texts(path)) == [row]


@pytest.mark.parametrize(
    "line",
    [
        '{"text_id": 2, "text": "b"}',
        '{"text": "b", "image_ids": [1]}',
        '{"text_id": 2, "text": "b", "image_ids": null}',
        '{"text_id": 2, "text": "b", "image_ids": ["x"]}',
        '{"text_id": 2, "text": "b", "image_ids": "123"}',
        '{"text_id": 2, "text": null, "image_ids": [1]}',
        "[1, 2]",
        "not json",
    ],
)
def test_a_broken_line_of_captions_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "train_texts.jsonl"
    path.write_text(Text(text_id=1, text="狗", image_ids=(1,)).line() + line + "\n", "utf-8")
    with pytest.raises(FormatError, match=r"train_texts\.jsonl, line 2: expected text_id, text"):
        list(formats.read_texts(path))


# --- LMDB -------------------------------------------------------------------------------------


def make_lmdb(folder: Path, pairs: dict[str, bytes], pictures: dict[str, bytes]) -> Path:
    for name, values in (("pairs", pairs), ("imgs", pictures)):
        (folder / name).mkdir(parents=True)
        env = lmdb.open(str(folder / name), map_size=2**20)
        with env.begin(write=True) as transaction:
            for key, value in values.items():
                transaction.put(key.encode(), value)
        env.close()
    return folder


def test_an_lmdb_of_the_reference_is_read(tmp_path: Path) -> None:
    pairs = {
        "0": pickle.dumps((5, 7, "一只狗")),
        "1": pickle.dumps((5, 8, "")),
        "num_samples": b"2",
    }
    pictures = {"5": base64.b64encode(b"\xfb\xff\xfe"), "num_images": b"1"}
    with PairsLmdb(make_lmdb(tmp_path / "文 1", pairs, pictures)) as split:
        assert (len(split), split.num_images) == (2, 1)
        assert split.pairs() == [(5, 7, "一只狗"), (5, 8, "")]


def test_both_alphabets_of_base64_are_read(tmp_path: Path) -> None:
    data = b"\xfb\xff\xfe"
    pictures = {"1": base64.urlsafe_b64encode(data), "num_images": b"1"}
    with PairsLmdb(make_lmdb(tmp_path, {"num_samples": b"0"}, pictures)) as split:
        assert split.picture(1) == data


class Malicious:
    """Unpickled by the standard library, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_code_in_an_lmdb_is_refused_and_never_runs(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    bad = pickle.dumps((1, 2, Malicious(mark)))
    pickle.loads(bad)
    mark.rmdir()  # the standard library did run it
    folder = make_lmdb(tmp_path / "lmdb", {"0": bad, "num_samples": b"1"}, {"num_images": b"0"})
    with PairsLmdb(folder) as split, pytest.raises(FormatError, match=r"names (posix|nt)\.mkdir"):
        split.pairs()
    assert not mark.exists()


@pytest.mark.parametrize("value", [b"", b"not a pickle", pickle.dumps((1, 2))])
def test_a_damaged_value_of_an_lmdb_is_refused(tmp_path: Path, value: bytes) -> None:
    folder = make_lmdb(tmp_path, {"0": value, "num_samples": b"1"}, {"num_images": b"0"})
    with PairsLmdb(folder) as split, pytest.raises(FormatError, match=str(tmp_path)):
        split.pairs()


def test_a_key_that_an_lmdb_lacks_is_named(tmp_path: Path) -> None:
    folder = make_lmdb(tmp_path, {"num_samples": b"1"}, {"num_images": b"0"})
    with PairsLmdb(folder) as split, pytest.raises(FormatError, match="the key '0' is missing"):
        split.pairs()


def test_a_folder_without_lmdb_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no LMDB pairs"):
        PairsLmdb(tmp_path)


def test_formats_needs_nothing_of_the_stages() -> None:
    import subprocess

    code = "import sys, wentu.formats; print([m for m in sys.modules if m in ('torch', 'lmdb')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
