"""Making the catalog: every file once, in whatever order; what is set aside has its reason."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from wentu import catalog as making
from wentu import formats
from wentu.collection import open_collection
from wentu.progress import Reporter

Listed = list[list[Any]]


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(formats.create_catalog(tmp_path / "catalog.sqlite")) as db:
        yield db


@pytest.fixture
def root(small_collection: Path, tmp_path: Path) -> Path:
    """Six pictures; number 5 lies there three times."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        shutil.copy(small_collection / f"pictures/{number:04d}.png", folder / f"{number}.png")
    for name in ("b copy.png", "a copy.png"):
        shutil.copy(folder / "5.png", folder / name)
    return folder


def listing(root: Path) -> Listed:
    """As inventory lists it."""
    rows: Listed = []
    for path in sorted(root.rglob("*")):
        digest = hashlib.blake2b(path.read_bytes(), digest_size=32).hexdigest()
        rows.append(["picture", path.relative_to(root).as_posix(), path.stat().st_size, digest])
    return [*rows, ["captions", "cn.json", 5, "x"]]


def add(catalog: sqlite3.Connection, root: Path, rows: Listed | None = None) -> None:
    making.add_pictures(
        catalog, open_collection(str(root)), listing(root) if rows is None else rows, Reporter()
    )


def table(catalog: sqlite3.Connection, query: str) -> list[tuple[Any, ...]]:
    return catalog.execute(query).fetchall()


def picture_of(catalog: sqlite3.Connection, path: str) -> int:
    ((found,),) = table(catalog, f"SELECT picture FROM paths WHERE path = '{path}'")
    return int(found)


# --- pictures ---------------------------------------------------------------------------------


def test_equal_files_are_one_picture_that_is_decoded_once(
    catalog: sqlite3.Connection, root: Path
) -> None:
    told: list[int] = []

    class Counting(Reporter):
        def emit(self, event: str, **values: Any) -> None:
            told.append(values["total"])

    making.add_pictures(catalog, open_collection(str(root)), listing(root), Counting())
    assert set(told) == {6}
    assert len(table(catalog, "SELECT * FROM pictures")) == 6
    assert len(table(catalog, "SELECT * FROM paths")) == 8
    same = {picture_of(catalog, name) for name in ("5.png", "a copy.png", "b copy.png")}
    assert same == {formats.id_of(formats.bytes_digest((root / "5.png").read_bytes()))}
    counts, details = making.count(catalog)
    assert (counts["pictures"], counts["rejected"]) == (6, 0)
    assert (details["duplicate_files"], details["without_caption"]) == (2, 6)


def test_the_order_of_the_listing_changes_nothing(root: Path, tmp_path: Path) -> None:
    found = set()
    for seed in range(4):
        rows = listing(root)
        random.Random(seed).shuffle(rows)
        with closing(formats.create_catalog(tmp_path / f"{seed}.sqlite")) as db:
            add(db, root, rows)
            queries = [f"SELECT * FROM {name} ORDER BY 1" for name in ("pictures", "paths")]
            found.add(repr([table(db, query) for query in queries]))
    assert len(found) == 1


def test_what_cannot_be_read_is_set_aside_under_each_of_its_paths(
    catalog: sqlite3.Connection, root: Path
) -> None:
    for name in ("5.png", "a copy.png", "b copy.png"):
        (root / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    rows = listing(root)
    (root / "0.png").unlink()
    (root / "1.png").write_bytes((root / "1.png").read_bytes() + b"\0")
    add(catalog, root, rows)
    rejected = dict(table(catalog, "SELECT * FROM rejected"))
    assert rejected.keys() == {"0.png", "1.png", "5.png", "a copy.png", "b copy.png"}
    assert rejected["1.png"] == "changed during the run"
    assert "No such file" in rejected["0.png"]
    assert "LFS" in rejected["5.png"] == rejected["a copy.png"]
    assert making.count(catalog)[0]["pictures"] == 3


def test_a_name_that_no_database_holds_is_set_aside_readably(
    catalog: sqlite3.Connection, root: Path
) -> None:
    name = os.fsdecode(b"\xff\xfe \xe6\x96\x87.png")
    shutil.copy(root / "0.png", root / name)
    add(catalog, root)
    assert table(catalog, "SELECT * FROM rejected") == [
        ("\\xff\\xfe 文.png", "its name is not valid UTF-8")
    ]
    assert making.count(catalog)[0]["pictures"] == 6


def test_ids_that_clash_are_told_apart_and_stay_63_bits(catalog: sqlite3.Connection) -> None:
    def taken(number: int) -> None:
        row = (number, b"", 1, 1, 1, number)
        catalog.execute(
            "INSERT INTO pictures (id, digest, width, height, bytes, grp) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            row,
        )

    assert making.free_id(catalog, 7) == 7
    taken(7)
    taken(8)
    assert making.free_id(catalog, 7) == 9
    taken(2**63 - 1)
    assert making.free_id(catalog, 2**63 - 1) == 0


def test_pictures_that_differ_only_behind_the_first_eight_bytes_of_their_digest_are_two(
    catalog: sqlite3.Connection, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "id_of", lambda digest: 5)
    add(catalog, root)
    rows = table(catalog, "SELECT id, digest FROM pictures ORDER BY id")
    assert [identity for identity, _ in rows] == [5, 6, 7, 8, 9, 10]
    digests = [digest for _, digest in rows]
    assert digests == sorted(digests)  # the same way every time
    for path in root.iterdir():
        ((digest,),) = table(
            catalog,
            "SELECT p.digest FROM pictures p JOIN paths f ON f.picture = p.id "
            f"WHERE f.path = '{path.name}'",
        )
        assert digest == formats.bytes_digest(path.read_bytes())


# --- captions ---------------------------------------------------------------------------------


def captions(catalog: sqlite3.Connection) -> list[tuple[Any, ...]]:
    query = (
        "SELECT min(f.path), t.text, c.original FROM captions c JOIN texts t ON t.id = c.text "
        "JOIN paths f ON f.picture = c.picture GROUP BY c.picture, c.text ORDER BY 1, 2"
    )
    return table(catalog, query)


def test_captions_are_attached_once_with_what_the_user_wrote(
    catalog: sqlite3.Connection, root: Path
) -> None:
    add(catalog, root)
    making.attach(catalog, "0.png", [("猫", "貓"), ("狗", None)])
    making.attach(catalog, "0.png", [("猫", None)])
    making.attach(catalog, "1.png", [("猫", None)], "test", "A-1")
    making.attach(catalog, "a copy.png", [("鸟", None)])
    making.attach(catalog, "5.png", [("鸟", None)])
    assert captions(catalog) == [
        ("0.png", "狗", None),
        ("0.png", "猫", "貓"),
        ("1.png", "猫", None),
        ("5.png", "鸟", None),
    ]
    own = table(catalog, "SELECT split, own_id FROM pictures WHERE own_id <> ''")
    assert own == [("test", "A-1")]
    counts, details = making.count(catalog)
    assert (counts["captions"], counts["test"], counts["train"]) == (3, 1, 0)
    assert details["captions_on_several_pictures"] == 1
    assert details["captions_converted"] == 1
    assert details["without_caption"] == 3


def test_captions_of_what_was_set_aside_are_dropped(
    catalog: sqlite3.Connection, root: Path
) -> None:
    (root / "0.png").write_bytes(b"broken")
    add(catalog, root)
    for path in ("0.png", "nowhere.png"):
        making.attach(catalog, path, [("猫", None)], "train", "1")
    assert captions(catalog) == table(catalog, "SELECT * FROM texts") == []


def test_later_words_on_a_picture_do_not_undo_earlier_ones(
    catalog: sqlite3.Connection, root: Path
) -> None:
    add(catalog, root)
    making.attach(catalog, "0.png", [("猫", None)], "valid", "7")
    making.attach(catalog, "0.png", [("狗", None)])
    assert table(catalog, "SELECT split, own_id FROM pictures WHERE split IS NOT NULL") == [
        ("valid", "7")
    ]


def test_decoding_runs_a_bounded_way_ahead(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the listing, few pictures are asked for before the first is used."""
    asked = 0

    def files() -> Iterator[tuple[str, list[str]]]:
        nonlocal asked
        digest = hashlib.blake2b((root / "0.png").read_bytes(), digest_size=32).hexdigest()
        for _ in range(1000):
            asked += 1
            yield digest, ["0.png"]

    work = making.decoded(open_collection(str(root)), files())
    first = next(work)
    assert first[1:4] == (["0.png"], (root / "0.png").stat().st_size, (128, 128))
    assert asked <= making.DECODE_AHEAD
    work.close()


def test_facts_go_with_the_catalog_into_its_segments(built_converted: Any) -> None:
    expected = {"convert": "tw2sp", "split": "open", "context_length": "0"}
    run = built_converted
    for folder in (run.catalog, run.lmdb, run.index / "segment"):
        assert formats.facts(folder / "catalog.sqlite") == expected
