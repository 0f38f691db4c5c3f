"""What was read before is not read again; what is new is read side by side, in the same order."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wentu.collection import Found, LocalCollection
from wentu.digests import PART, PARTS, DigestCache
from wentu.errors import ServiceError

NAMES = st.text("a/0é文😀\udcff\udce9", min_size=1, max_size=3)
KNOWN = st.dictionaries(NAMES, st.sampled_from("123"), max_size=12)


class Contents(LocalCollection):
    """A folder whose files need not exist: the content of one is its name and its mark."""

    def __init__(self, root: Path, marks: dict[str, str], parallel: int = 1) -> None:
        super().__init__(str(root), root)
        self.marks, self.parallel = marks, parallel
        self.read_now: list[str] = []

    def found(self) -> Iterator[Found]:
        return (Found(path, 1, self.marks[path]) for path in sorted(self.marks))

    def digest(self, path: str) -> str:
        self.read_now.append(path)
        return digest_of(path, self.marks[path])


def digest_of(path: str, mark: str) -> str:
    return hashlib.sha256(os.fsencode(f"{path}:{mark}")).hexdigest()


@given(KNOWN, KNOWN, st.sampled_from([1, 3]))
def test_only_what_changed_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    before: dict[str, str],
    after: dict[str, str],
    parallel: int,
) -> None:
    root = tmp_path_factory.mktemp("digests")
    with closing(DigestCache(root / "db")) as cache:
        one, other = Contents(root, before, parallel), Contents(root, after, parallel)
        list(cache.digests(one, one.found()))
        rows = list(cache.digests(other, other.found()))
    assert rows == [["picture", path, 1, digest_of(path, after[path])] for path in sorted(after)]
    assert sorted(one.read_now) == sorted(before)
    changed = [path for path in sorted(after) if before.get(path) != after[path]]
    assert sorted(other.read_now) == changed


def test_a_few_new_ones_among_many_old_are_read_side_by_side(tmp_path: Path) -> None:
    together = 4
    marks = {f"{number:06d}.jpg": "1" for number in range(PART * (together + 2))}
    barrier = Barrier(together)

    class Waiting(Contents):
        def digest(self, path: str) -> str:
            barrier.wait(timeout=30)
            return super().digest(path)

    with closing(DigestCache(tmp_path / "db")) as cache:
        list(cache.digests(old := Contents(tmp_path, marks), old.found()))
        for number in range(together):  # one in each part that is looked up
            marks[f"{PART * number + 7:06d}.jpg"] = "2"
        new = Waiting(tmp_path, marks, together)
        rows = list(cache.digests(new, new.found()))
    assert [row[3] for row in rows] == [digest_of(path, marks[path]) for path in sorted(marks)]
    assert len(new.read_now) == together


@pytest.mark.parametrize("parallel", [1, 3])
def test_no_more_is_held_than_a_few_thousand(tmp_path: Path, parallel: int) -> None:
    asked = 0

    def found() -> Iterator[Found]:
        nonlocal asked
        for asked in range(4 * PART * PARTS):
            yield Found(f"{asked:08d}.jpg", 1, "")

    most = 0
    with closing(DigestCache(tmp_path / "db")) as cache:
        collection = Contents(tmp_path, {}, parallel)
        for number, _ in enumerate(cache.digests(collection, found())):
            most = max(most, asked - number)
    assert most <= PART * (PARTS + 1)


def test_one_that_cannot_be_read_stops_what_else_is_waiting(tmp_path: Path) -> None:
    marks = {f"{number:04d}.jpg": "1" for number in range(PART)}

    class Broken(Contents):
        def digest(self, path: str) -> str:
            if path == "0000.jpg":
                raise ServiceError("the server is gone.", "服务器已断开。")
            time.sleep(0.01)
            return super().digest(path)

    broken = Broken(tmp_path, marks, 2)
    with (
        closing(DigestCache(tmp_path / "db")) as cache,
        pytest.raises(ServiceError, match="gone"),
    ):
        list(cache.digests(broken, broken.found()))
    assert len(broken.read_now) < PART / 2
