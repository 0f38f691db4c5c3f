"""Following a folder: look, read a while, publish, rest; in a process of its own.

A process, not a thread: decoding what anybody may have put there is the one thing that can crash or
eat all memory, and it would share Python's lock with the queries. It runs at a low priority, ends
when the service does, and may be killed at any moment.

    python -m wentu.library.follow STORE PARENT [crashed]
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from wentu.errors import WentuError
from wentu.language import pick
from wentu.library.place import LOCK, PART, Library, load
from wentu.library.reading import Reader
from wentu.library.scan import AwayError, Scanned, scan
from wentu.library.state import DAMAGED, WAITING, open_state
from wentu.library.status import Status, write_status
from wentu.library.writing import Writer, collect
from wentu.progress import Lines

SHORTEST, LONGEST = 2.0, 30.0
"""Seconds between looks: ten times what a look takes, within these. A look at 1,000 files takes
20 ms, one at a million some seconds."""
FIRST_STEP, LONGEST_STEP = 5.0, 20.0
"""Seconds of reading after which what was read is published; it grows with what publishing takes.
A picture that comes during one is the first to be read in the next: found within a minute."""
RETRY = 600.0
"""Seconds after which what could not be opened is tried again, and what is not needed removed."""
MOST_TOLD = 20
"""Bad files that are named on the terminal after each look."""


@dataclass(kw_only=True)
class Follower:
    """Follows one library; nobody else does meanwhile."""

    library: Library
    crashed: bool = False
    """Did the process before this one end by itself?"""
    pause: Callable[[float], object] = time.sleep
    lines: Lines = field(default_factory=lambda: Lines("library"))
    _bad: int = 0
    _said: str = ""
    _status: Status | None = None
    _written: float = 0.0

    def run(self, looks: int = -1) -> None:
        """Follow, for ever or so many looks."""
        current = self.library.store.current()
        assert current is not None
        home = self.library.home
        segments = self.library.store.storage.home / "segments"
        for left in (*home.glob(f"{PART}*"), *segments.glob(".*")):
            shutil.rmtree(left, ignore_errors=True)
        self.state = open_state(
            home / "state.sqlite", self.library.store, current[1], self.library.model
        )
        self.reader = Reader(self.state, self.library.store, self.library.root, self.library.model)
        self.writer = Writer(library=self.library, state=self.state)
        self.tried, self.costs, self.indexed = time.monotonic(), 0.0, current[1].pictures
        self.state.try_again()
        for path in self.state.after_end(self.crashed):
            reason = pick("decoding it ended the process twice", "解码时进程两次异常结束")
            self.tell_bad(path, reason)
        self.say("indexing", "")
        compare = True
        try:
            while looks:
                looks -= 1
                compare = self.look(compare)
        finally:
            self.state.close()

    def look(self, compare: bool) -> bool:
        """One look at the folder, and what follows from it; whether to publish next time anyway.

        Args:
            compare: publish also if the folder did not change: at the start, and after a failure.
        """
        began = time.monotonic()
        try:
            found = scan(self.state, self.library.root)
        except AwayError as error:
            self.say("away", str(error))
            self.state.try_again()
            self.pause(SHORTEST)
            return compare
        took = time.monotonic() - began
        try:
            if found.changed or compare or self.state.count(WAITING):
                self.step(found, took)
            if time.monotonic() - self.tried > RETRY:
                self.state.try_again()
                collect(self.library, self.state)
                self.tried = time.monotonic()
        except Exception as error:
            said = (
                str(error) if isinstance(error, WentuError) else f"{type(error).__name__}: {error}"
            )
            self.say("failing", " ".join(said.split())[:500])
            self.pause(LONGEST)
            return True
        if self.state.count(WAITING):
            return False
        self.say("following", "")
        self.reader.rest()
        rest = min(max(10 * took, SHORTEST), LONGEST)
        self.pause(SHORTEST if found.young else rest)
        return False

    def step(self, found: Scanned, took: float) -> None:
        """Read for a while, publish, and tell."""
        until = time.monotonic() + min(max(FIRST_STEP, 5 * (took + self.costs)), LONGEST_STEP)
        total = self.state.count(WAITING)
        began, self._bad = time.monotonic(), 0

        def go_on(done: int) -> bool:
            rate = done / max(time.monotonic() - began, 1e-9)
            if total > done:
                self.lines.emit(
                    "progress",
                    label=pick("indexing", "建立索引"),
                    done=self.indexed + done,
                    total=self.indexed + total,
                    rate=rate,
                )
            self.say("indexing", "")
            return time.monotonic() < until

        self.say("indexing" if total else "following", "")
        vectors = self.reader.read(go_on, self.tell_bad) if total else {}
        start = time.monotonic()
        self.state.drop_gone()
        release = self.writer.publish(vectors)
        if release:
            self.indexed = release.pictures
            collect(self.library, self.state)
            if not self.state.count(WAITING):
                self.tell_release()
        self.costs = time.monotonic() - start

    # --- telling -------------------------------------------------------------------------------

    def tell_bad(self, path: str, reason: str) -> None:
        """A file that is left out."""
        self._bad += 1
        if self._bad <= MOST_TOLD:
            self.lines.tell(pick(f"left out: {path}: {reason}", f"已跳过：{path}：{reason}"))
        elif self._bad == MOST_TOLD + 1:
            self.lines.tell(pick("left out: and others", "已跳过：以及其他文件"))

    def tell_release(self) -> None:
        """That everything is indexed."""
        self.lines.tell(
            pick(
                f"{self.indexed:,} pictures can be found",
                f"可搜索 {self.indexed:,} 张图片",
            )
        )

    def say(self, state: str, problem: str) -> None:
        """Note how it stands, for the service; a problem is told once."""
        status = Status(
            state=state,
            indexed=self.indexed,
            waiting=self.state.count(WAITING),
            damaged=self.state.count(DAMAGED),
            pid=os.getpid(),
        )
        moment = time.monotonic()
        if status != self._status and (moment - self._written > 1 or state != "indexing"):
            write_status(self.library.store, status)
            self._status, self._written = status, moment
        if problem and problem != self._said:
            self.lines.tell(problem)
        elif not problem and self._said:
            self.lines.tell(pick("goes on", "已恢复"))
        self._said = problem


def end_with(parent: int) -> None:
    """End soon after ``parent``, which started this process, whatever ended it."""

    def wait() -> NoReturn:
        while os.getppid() == parent:
            time.sleep(0.3)
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def main(place: str, parent: int, crashed: bool) -> None:
    """Follow the library in a store, as soon as nobody else does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the service ends us
    end_with(parent)
    os.nice(10)
    library = load(place)
    assert library is not None, "the service made it"
    told = False
    while True:
        with library.store.storage.lock(LOCK, wait=False) as free:
            if free:
                Follower(library=library, crashed=crashed).run()
        if not told:
            told = True
            Lines("library").tell(
                pick(
                    f"another process follows {library.root}; this one only serves what it finds, "
                    "until that one ends.",
                    f"另一个进程正在跟踪 {library.root}；在其结束前，本进程只提供搜索。",
                )
            )
        time.sleep(SHORTEST)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), "crashed" in sys.argv[3:])
