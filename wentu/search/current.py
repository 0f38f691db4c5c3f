"""The release that is served: follows the store's pointer and never fails a query for it.

A thread looks at the pointer every few seconds. A new release is opened and checked beside the one
that serves, then takes its place; the old one is closed when the last query that uses it is done.
One that cannot be opened or is not whole leaves the last good one in place, is told of
(``state().problem``), and is tried again with growing pauses: an object store may come back.

What was fetched out of an object store was held against its digests on arrival. Files of a store in
a folder are held against theirs while they serve already: a gigabyte takes a second to read. The
release before stays open so long, and comes back if a digest is wrong. One that failed before is
held against its digests first.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from wentu.errors import FormatError, WentuError
from wentu.language import pick
from wentu.search.engine import Engine
from wentu.search.segment import CONNECTIONS
from wentu.store import Pointer, Release, Store

POLL = 3.0
"""Seconds between looks at the pointer."""
LONGEST = 60.0
"""Seconds between tries of a release that cannot be served."""
FALLBACKS = 5
"""At the start, how many earlier pointers are tried where the current release is broken."""

log = logging.getLogger("wentu.serve")


@dataclass(frozen=True, kw_only=True)
class State:
    """What is served, in short."""

    pointer: Pointer | None = None
    """The one whose release is served; None: nothing is served yet."""
    since: float = 0.0
    """Unix time."""
    verified: bool = False
    """Were all its files held against their digests?"""
    problem: str = ""
    """That what the store points at is not served, a sentence; empty where it is. Whoever can reach
    the service may read it: why, and where things lie, the log says."""
    swaps: int = 0
    failures: int = 0


class NothingServedError(WentuError):
    """There is no release to search yet."""


class _Lent:
    """An engine with the number of its users; closed when it is retired and nobody uses it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.users, self.retired = 0, False


class Current:
    """Lends the engine of the current release to queries, and replaces it as the store goes on."""

    def __init__(
        self,
        store: Store,
        *,
        poll: float = POLL,
        connections: int = CONNECTIONS,
        tell: Callable[[Engine], object] = lambda engine: None,
    ) -> None:
        """tell: is called with each engine when it begins to serve."""
        self.store, self._poll, self._connections, self._tell = store, poll, connections, tell
        self._lock = threading.Lock()
        self._lent: _Lent | None = None
        self._state = State()
        self._wrong: dict[int, tuple[float, float]] = {}  # number -> (not before, pause)
        self._sound: set[tuple[str, str]] = set()  # (key, SHA-256) of files that are right
        self._logged = ""
        self._stop = threading.Event()
        self.looked = threading.Event()
        """Is there something to serve, or was there nothing at the first look?"""
        self._thread = threading.Thread(target=self._follow, name="follow pointer", daemon=True)

    def start(self) -> None:
        """Begin to follow the pointer."""
        self._thread.start()

    def close(self) -> None:
        """Stop following, and close what nobody uses."""
        self._stop.set()
        self.looked.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)
        with self._lock:
            last, self._lent = self._lent, None
        self._retire(last)

    def state(self) -> State:
        """What is served now."""
        with self._lock:
            return self._state

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        """The engine of the current release, which stays open meanwhile; NothingServedError."""
        with self._lock:
            lent = self._lent
            if lent is None:
                raise NothingServedError(
                    "nothing can be searched yet; /readyz says why.",
                    "还不能搜索；原因见 /readyz。",
                )
            lent.users += 1
        try:
            yield lent.engine
        finally:
            with self._lock:
                lent.users -= 1
                done = lent.retired and lent.users == 0
            if done:
                lent.engine.close()

    # --- following -----------------------------------------------------------------------------

    def _follow(self) -> None:
        while True:
            try:
                self.look()
            except Exception as error:  # a thread that died would serve an old release for ever
                self._fail(error)
            self.looked.set()
            if self._stop.wait(self._poll):
                return

    def look(self) -> None:
        """Look at the pointer once, and swap where it points at something new."""
        numbers = [int(name.split(".")[0]) for name in self.store.storage.list("pointer")]
        if not numbers:
            with self._lock:
                self._state = replace(self._state, problem=nothing_yet())
            return
        served = self.state().pointer
        if served and served.number == numbers[-1]:
            return
        first = FALLBACKS + 1 if served is None else 1
        for number in reversed(numbers[-first:]):
            not_before, pause = self._wrong.get(number, (0.0, self._poll))
            if time.monotonic() < not_before:
                continue
            try:
                self._swap(number, newest=number == numbers[-1])
            except Exception as error:
                self._wrong[number] = (time.monotonic() + pause, min(2 * pause, LONGEST))
                self._fail(error, number)
                continue
            self._wrong.pop(number, None)
            return

    def _swap(self, number: int, newest: bool) -> None:
        pointer = self.store.pointer(number)
        if pointer is None:
            raise FormatError(f"pointer {number} is gone.", f"指针 {number} 已不存在。")
        before, was = self._lent, self.state()
        release = self.store.release(pointer.release)
        if before and before.engine.release.id == release.id:  # unpinned, say
            with self._lock:
                self._state = replace(was, pointer=pointer, problem="")
            return
        engine = Engine(self.store, release, before.engine if before else None, self._connections)
        try:
            engine.check()
            if number in self._wrong:
                self._verify(release)
        except BaseException:
            engine.close()
            raise
        with self._lock:
            self._lent = _Lent(engine)
            self._state = State(
                pointer=pointer,
                since=time.time(),
                problem="" if newest else was.problem,
                swaps=was.swaps + 1,
                failures=was.failures,
            )
        self.looked.set()
        with suppress(OSError):  # nobody reads what is printed
            self._tell(engine)
        try:
            self._verify(release)
        except Exception:
            self._give_back(before, was)
            raise
        with self._lock:
            self._state = replace(self._state, verified=True)
        self._retire(before)

    def _verify(self, release: Release) -> None:
        """Hold the files of a release against their digests, those that were not before."""
        files = dict(release.files.items() - self._sound)
        self.store.verify(replace(release, files=files))
        self._sound = set(release.files.items())

    def _give_back(self, before: _Lent | None, was: State) -> None:
        """Serve what was served before."""
        with self._lock:
            wrong, self._lent = self._lent, before
            self._state = replace(was, swaps=self._state.swaps, failures=self._state.failures)
        self._retire(wrong)

    def _retire(self, lent: _Lent | None) -> None:
        if lent is None:
            return
        with self._lock:
            lent.retired = True
            free = lent.users == 0
        if free:
            lent.engine.close()

    def _fail(self, error: Exception, number: int | None = None) -> None:
        """Remember why what the store points at is not served."""
        said = str(error) if isinstance(error, WentuError) else f"{type(error).__name__}: {error}"
        said = " ".join(said.split())[:500]
        problem = pick(
            "the store cannot be looked at; the log of the service says why.",
            "无法查看仓库；原因见服务日志。",
        )
        if number is not None:
            said = pick(
                f"pointer {number} of {self.store.place} cannot be served: {said}",
                f"{self.store.place} 的指针 {number} 无法提供服务：{said}",
            )
            problem = pick(
                f"pointer {number} cannot be served; the log of the service says why.",
                f"指针 {number} 无法提供服务；原因见服务日志。",
            )
        with self._lock:
            again = self._state.problem == problem and self._logged == said
            failures = self._state.failures + 1
            self._state = replace(self._state, problem=problem, failures=failures)
        if not again:
            self._logged = said
            log.warning("%s", said)


def nothing_yet() -> str:
    """A store without a release."""
    return pick(
        "the store has no release yet: run `wentu run`; it is served as soon as it is there.",
        "仓库还没有发布版本：请运行 wentu run；发布后会自动开始服务。",
    )
