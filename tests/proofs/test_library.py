"""A library through a bad day: it ends right however often it is killed (issue 6, Done when 7).

1,000 files come, 100 are renamed, 100 go, the folder is unplugged and comes back, the service and
its follower are killed by SIGKILL at random moments meanwhile. After each of these the index is
held against an obvious recomputation: the names, the ids, and the vectors within 1e-5.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.library.folders import OLD, assert_right, fill, held, jpeg, put, there
from tests.library.service import Running, serving, until
from wentu.library.place import load
from wentu.library.status import read_status

pytestmark = pytest.mark.heavy
FILES, SOME, KILLS = 1000, 100, 4
"""Kills of the whole service in each part of the day; its follower alone is killed as often."""


@dataclass(kw_only=True)
class Day:
    """A folder, and a service of it that is killed and started again."""

    root: Path
    index: Path
    logs: Path
    model: Path
    rng: random.Random
    stack: ExitStack = field(default_factory=ExitStack)
    service: Running | None = None
    starts: int = 0

    def start(self) -> Running:
        """Serve (again)."""
        self.starts += 1
        log = self.logs / f"{self.starts}.log"
        words = ("--model", str(self.model)) if self.starts == 1 else ()
        self.service = self.stack.enter_context(serving(self.root, self.index, log, *words))
        return self.service

    def kill(self) -> None:
        """End the follower alone, then the service; each some time after it began to work."""
        assert self.service
        first = until(self.follower)
        time.sleep(self.rng.uniform(0, 3))
        os.kill(first, signal.SIGKILL)
        until(lambda: self.follower() not in (0, first))
        time.sleep(self.rng.uniform(0, 3))
        self.service.kill()
        self.stack.close()
        self.start()

    def follower(self) -> int:
        """The process that follows; 0 where none does yet."""
        library = load(str(self.index))
        status = read_status(library.store) if library else None
        return status.pid if status and status.state != "stopped" else 0

    def through(self, changes: list[Callable[[], object]]) -> None:
        """Make changes, killing in between; the index is right in the end."""
        at = sorted(self.rng.sample(range(len(changes)), KILLS))
        for number, change in enumerate(changes):
            change()
            if number in at:
                self.kill()
        self.is_right()

    def says(self, state: str) -> bool:
        """Does the service say that its library is in that state?"""
        return self.service is not None and self.service.library().get("state") == state

    def is_right(self) -> None:
        """In a while it says what lies there. (A minute is promised for one new picture.)"""
        library = load(str(self.index))
        assert library
        expected = there(self.root)
        until(lambda: library.store.current()[1].pictures == len(set(expected.values())), 240)
        until(lambda: held(library.store)[0] == expected)
        until(lambda: self.says("following"))
        assert_right(library, self.root, self.model)


def test_killed_again_and_again_the_index_ends_right(built: Any, tmp_path: Path) -> None:
    day = Day(
        root=tmp_path / "图片",
        index=tmp_path / "index",
        logs=tmp_path,
        model=built.winner,
        rng=random.Random(6),
    )
    day.root.mkdir()
    with day.stack:
        day.start()
        day.through([partial(fill, day.root, range(n, n + 20)) for n in range(0, FILES, 20)])
        assert len(there(day.root)) == FILES

        names = sorted(there(day.root))
        day.rng.shuffle(names)
        renamed, removed, edited = names[:SOME], names[SOME : 2 * SOME], names[-20:]
        (day.root / "new").mkdir()
        changes: list[Callable[[], object]] = [(day.root / name).unlink for name in removed]
        for n, name in enumerate(renamed):
            changes.append(partial((day.root / name).rename, day.root / f"new/改名 {n}.jpg"))
        for n, name in enumerate(edited):
            changes.append(partial(put, day.root / name, jpeg(5000 + n), OLD + 5000 + n))
        day.rng.shuffle(changes)
        day.through(changes)

        assert day.service
        away, before = tmp_path / "away", load(str(day.index))
        assert before
        pointer = before.store.pointer()
        day.root.rename(away)
        until(lambda: day.says("away"))
        day.kill()
        day.root.mkdir()  # the mount point
        until(lambda: day.says("away"))
        assert before.store.pointer() == pointer
        kept = away / "new/改名 5.jpg"
        assert day.service.found(kept.read_bytes()) == ["new/改名 5.jpg"]
        day.root.rmdir()
        fill(away, range(FILES, FILES + 20))
        away.rename(day.root)
        day.kill()
        day.is_right()

        new, began = jpeg(9999), time.monotonic()
        put(day.root / "the last.jpg", new, time.time())
        until(lambda: day.service and day.service.found(new) == ["the last.jpg"])
        assert time.monotonic() - began < 60
        day.is_right()
