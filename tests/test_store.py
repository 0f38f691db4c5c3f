"""Releases are found again as they were; one pointer at a time; splits are given for good."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from wentu.errors import FormatError, InputError, StaleError
from wentu.formats import FORMAT
from wentu.store import Attempt, Pointer, Release, SegmentRef, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "我的 store"))


def release(**changed: Any) -> Release:
    given: dict[str, Any] = {
        "model": "m" * 32,
        "segments": (SegmentRef(digest="s", tombstones=(3, 2**63 - 1)),),
        "inventory": "i" * 32,
        "pictures": 2,
        "dimension": 128,
        "parameters": {"pictures": "/数据/图 片", "captions": "none"},
        "metrics": {"mean_recall": 0.5},
        "split_version": "v",
    }
    return Release(**given | changed)


def fill(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "a.bin").write_text(content)
    return folder


# --- releases ---------------------------------------------------------------------------------


def test_a_release_comes_back_as_it_was(store: Store) -> None:
    identity = store.write_release(release())
    assert store.release(identity) == release()
    assert store.release(identity).id == identity


def test_the_id_of_a_release_is_that_of_its_content(store: Store) -> None:
    reordered = release(parameters={"captions": "none", "pictures": "/数据/图 片"})
    assert reordered.id == release().id
    assert len(release().id) == 16
    others = (release(pictures=3), release(segments=()), release(metrics={}), release(model="n"))
    assert len({release().id, *(each.id for each in others)}) == 5


def test_a_release_is_written_once(store: Store) -> None:
    identity = store.write_release(release())
    path = store.storage.home / f"releases/{identity}.json"
    path.write_text(path.read_text().replace('"created": "2', '"created": "1'))
    before = path.read_bytes()
    assert store.write_release(release()) == identity
    assert path.read_bytes() == before
    assert list(store.storage.list("releases")) == [f"{identity}.json"]


def test_an_unknown_release_lists_the_known(store: Store) -> None:
    with pytest.raises(InputError, match="no release x; known: none"):
        store.release("x")
    identity = store.write_release(release())
    with pytest.raises(InputError, match=f"no release x; known: {identity}"):
        store.release("x")


@pytest.mark.parametrize("kind", ["releases", "pointer", "attempts"])
def test_what_another_version_wrote_is_refused(store: Store, kind: str) -> None:
    identity = store.write_release(release())
    store.publish(identity, after=0, reason="train")
    store.record_attempt(Attempt(inventory="i", settings="s", pictures=1))
    name = next(iter(store.storage.list(kind)))
    path = store.storage.home / f"{kind}/{name}"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": FORMAT + 1}))
    read = {
        "releases": lambda: store.release(identity),
        "pointer": store.pointer,
        "attempts": store.last_attempt,
    }
    with pytest.raises(
        FormatError, match=f"{kind}/{name} has format {FORMAT + 1}; this wentu reads {FORMAT}"
    ):
        read[kind]()


# --- the pointer ------------------------------------------------------------------------------


def test_nothing_is_current_before_something_is_published(store: Store) -> None:
    assert store.current() is None
    assert store.pointer() is None
    assert store.pointer(1) is None
    assert store.pointers() == []


def test_the_last_published_is_current_and_the_others_are_remembered(store: Store) -> None:
    first, second = (store.write_release(release(pictures=n)) for n in (1, 2))
    store.publish(first, after=0, reason="train")
    made = store.publish(second, after=1, reason="rollback", pinned=True)
    assert (made.number, made.pinned) == (2, True)
    assert store.current() == (made, release(pictures=2))
    assert [pointer.release for pointer in store.pointers()] == [first, second]
    assert store.pointer(1) == store.pointers()[0]
    assert isinstance(store.pointer(2), Pointer)


def test_numbers_of_pointers_are_compared_as_numbers(store: Store) -> None:
    identity = store.write_release(release())
    for number in range(11):
        store.publish(identity, after=number, reason="refresh")
    found = store.pointer()
    assert found is not None
    assert found.number == 11


def test_publishing_over_somebody_else_is_stale(store: Store) -> None:
    first, second = (store.write_release(release(pictures=n)) for n in (1, 2))
    store.publish(first, after=0, reason="train")
    with pytest.raises(StaleError, match=r"another release became current meanwhile \(pointer 1\)"):
        store.publish(second, after=0, reason="train")
    current = store.current()
    assert current is not None
    assert current[1].id == first


def test_of_eight_that_publish_at_once_one_does(store: Store) -> None:
    names = [store.write_release(release(pictures=number)) for number in range(8)]
    barrier = Barrier(8)

    def publish(name: str) -> bool:
        barrier.wait()
        try:
            store.publish(name, after=0, reason="train")
        except StaleError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(publish, names))
    assert sum(won) == 1
    current = store.current()
    assert current is not None
    assert current[1].id == names[won.index(True)]


# --- models, segments, verification -----------------------------------------------------------


def test_equal_segments_are_one(store: Store, tmp_path: Path) -> None:
    one = store.put_segment(fill(tmp_path / "one", "same"))
    two = store.put_segment(fill(tmp_path / "two", "same"))
    other = store.put_segment(fill(tmp_path / "other", "different"))
    assert one == two != other
    assert sorted(store.storage.list("segments")) == sorted({one, other})
    assert (store.segment(one) / "a.bin").read_text() == "same"


def test_what_the_store_lacks_is_named(store: Store) -> None:
    with pytest.raises(FormatError, match="lacks models/x"):
        store.model("x")
    with pytest.raises(FormatError, match="lacks segments/y"):
        store.segment("y")


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_verify_finds_a_changed_file(store: Store, tmp_path: Path, damage: str) -> None:
    store.put_model(fill(tmp_path / "model", "weights"), "m")
    segment = SegmentRef(digest=store.put_segment(fill(tmp_path / "segment", "vectors")))
    made = release(model="m", segments=(segment,), files=store.files_of("m", (segment,)))
    assert set(made.files) == {"models/m/a.bin", f"segments/{segment.digest}/a.bin"}
    store.verify(made)
    path = store.model("m") / "a.bin"
    path.unlink()
    if damage == "changed":
        path.write_text("weights!")
    with pytest.raises(FormatError, match=r"models/m/a\.bin is missing or was changed"):
        store.verify(made)


def test_thumbnails_are_spread_over_256_folders() -> None:
    folders = {Store.thumbnail_key(number << 55 | 5).split("/")[1] for number in range(256)}
    assert len(folders) == 256
    assert Store.thumbnail_key(2**63 - 1) == f"thumbnails/ff/{2**63 - 1}.jpg"


# --- inventories, splits, attempts ------------------------------------------------------------


def test_lines_come_back_and_are_written_once(store: Store) -> None:
    rows = [["picture", "文 😀.jpg", 3], ["picture", "broken \udcff name", 4]]
    assert store.put_lines("inventories/a.jsonl.gz", rows)
    assert not store.put_lines("inventories/a.jsonl.gz", [])
    assert list(store.inventory("a")) == rows


def test_equal_lines_are_equal_bytes(store: Store) -> None:
    for key in ("inventories/a.jsonl.gz", "inventories/b.jsonl.gz"):
        store.put_lines(key, [["a", 1]])
    assert store.storage.read("inventories/a.jsonl.gz") == store.storage.read(
        "inventories/b.jsonl.gz"
    )


def test_an_unknown_inventory_says_what_to_run(store: Store) -> None:
    with pytest.raises(InputError, match="has no inventory x; run `wentu inventory` first"):
        store.inventory("x")


def test_splits_are_remembered_in_the_order_they_were_given(store: Store) -> None:
    assert list(store.assignments()) == []
    store.add_assignments(lambda: [(1, 1, "train"), (2**63 - 1, 2, "test")])
    store.add_assignments(lambda: [(1, 2, "test")])
    rows = [(1, 1, "train"), (2**63 - 1, 2, "test"), (1, 2, "test")]
    assert list(Store(store.place).assignments()) == rows
    assert len(list(store.storage.list("splits"))) == 2


def test_splits_given_at_once_are_all_remembered(store: Store) -> None:
    barrier = Barrier(6)

    def add(number: int) -> None:
        barrier.wait()
        store.add_assignments(lambda: iter([(number, number, "train")]))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(add, range(6)))
    assert sorted(store.assignments()) == [(number, number, "train") for number in range(6)]


def test_an_attempt_goes_on_until_its_verdict(store: Store) -> None:
    one = Attempt(inventory="i", settings="s", pictures=5)
    assert store.last_attempt() is None
    number = store.record_attempt(one)
    assert not store.attempt_ended()
    assert store.record_attempt(one) == number  # cut off, and taken up again
    for _ in range(2):
        store.end_attempt(number)
        assert store.attempt_ended()
    again = store.record_attempt(one)
    assert again > number
    assert not store.attempt_ended()


def test_the_last_attempt_counts(store: Store) -> None:
    one = Attempt(inventory="i", settings="s", pictures=5)
    numbers = []
    for attempt in (one, replace(one, settings="t"), one):
        numbers.append(store.record_attempt(attempt))
        last = store.last_attempt()
        assert last is not None
        assert last == replace(attempt, created=last.created)
        assert last.created
    assert numbers == sorted(set(numbers))
    store.end_attempt(numbers[0])
    assert not store.attempt_ended()


def test_a_work_folder_keeps_what_is_in_it(store: Store) -> None:
    with store.work("abc") as folder:
        (folder / "state").write_text("1")
    with store.work("abc") as folder:
        assert (folder / "state").read_text() == "1"
    with store.work("other") as folder:
        assert not list(folder.iterdir())
