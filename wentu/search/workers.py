"""Several processes that answer on one socket, and one that starts them again when they die.

The supervisor imports nothing heavy, runs no thread and answers nothing: it listens before the
first worker is there and as long as it lives, so whoever connects waits and is never refused. It
forks; a worker that dies, whatever of, is replaced at once, or after growing pauses where it dies
young. SIGTERM and SIGINT end all, answers under way first. A worker whose supervisor is gone ends
as if asked to: it waits for the end of a pipe that nobody else holds.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

from wentu.language import pick

WANTED = (signal.SIGTERM, signal.SIGINT)
YOUNG = 10.0
"""Seconds; a worker that dies younger is started again after a pause that doubles each time."""
LONGEST = 30.0
"""Seconds of such a pause."""
RETRY = 2.0
"""Seconds after which a process is asked for again that the system had no room for."""
Work = Callable[[int], None]
log = logging.getLogger("wentu.serve")


def supervise(
    count: int,
    work: Work,
    grace: float,
    died: Callable[[int, int], None] = lambda number, status: None,
) -> None:
    """Run ``work(number)`` in ``count`` processes until asked to end; then ends by that signal.

    Args:
        grace: seconds that a worker is given to end.
        died: is told of each that died, with its wait status, before it is started again.
    """
    _Supervisor(count, work, grace, died).run()


class _Supervisor:
    """See the top of this file."""

    def __init__(
        self, count: int, work: Work, grace: float, died: Callable[[int, int], None]
    ) -> None:
        self._work, self._grace, self._died = work, grace, died
        self._pids: dict[int, int] = {}  # of a worker -> its number
        self._since = dict.fromkeys(range(count), 0.0)
        self._pause = dict.fromkeys(range(count), 0.0)
        self._due = dict.fromkeys(range(count), 0.0)  # number -> when to start it
        self._alive, self._holding = os.pipe()
        self._asked: list[int] = []

    def run(self) -> None:
        """Until asked to end."""
        before = {each: signal.signal(each, self._note) for each in (*WANTED, signal.SIGCHLD)}
        self._waking, waker = os.pipe()
        os.set_blocking(waker, False)
        os.set_blocking(self._waking, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        try:
            while not self._asked:
                self._start_due(before)
                self._wait(self._seconds())
                self._reap()
            self._end_all()
        finally:
            for pid in self._pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            signal.set_wakeup_fd(-1)
            for each in (self._alive, self._holding, self._waking, waker):
                os.close(each)
            for number, handler in before.items():
                signal.signal(number, handler)
        signal.raise_signal(self._asked[0])

    def _note(self, number: int, _: object) -> None:
        if number in WANTED:
            self._asked.append(number)

    def _wait(self, seconds: float) -> None:
        """Until a signal comes, at most so long."""
        select.select([self._waking], [], [], seconds)
        with suppress(BlockingIOError):
            os.read(self._waking, 4096)

    def _seconds(self) -> float:
        """Until something has to be started."""
        now = time.monotonic()
        return max(0.0, min([each - now for each in self._due.values()], default=60.0))

    def _start_due(self, handlers: Mapping[signal.Signals, Any]) -> None:
        now = time.monotonic()
        for number in [each for each, when in self._due.items() if when <= now]:
            del self._due[number]
            self._since[number] = now
            sys.stdout.flush()
            sys.stderr.flush()
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, handlers)  # till it has its own
            try:
                pid = os.fork()
            except OSError as error:  # no room for another process at the moment
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                self._due[number] = now + RETRY
                log.warning("%s", pick(f"cannot fork: {error}", f"无法创建进程：{error}"))
                continue
            if pid == 0:
                self._be(number, handlers, mask)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self._pids[pid] = number

    def _be(self, number: int, handlers: Mapping[signal.Signals, Any], mask: Any) -> NoReturn:
        """Be that worker."""
        status = 1
        try:
            os.close(self._holding)
            signal.set_wakeup_fd(-1)
            for each, handler in handlers.items():
                signal.signal(each, handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            threading.Thread(target=self._follow_supervisor, daemon=True).start()
            self._work(number)
            status = 0
        except KeyboardInterrupt:
            status = 128 + signal.SIGINT
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def _follow_supervisor(self) -> None:
        """End when the supervisor does; in a thread of a worker."""
        os.read(self._alive, 1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self._grace)
        os._exit(1)

    def _reap(self) -> None:
        """Take leave of those that died, and have others take their place."""
        for pid, status in dead(self._pids):
            number = self._pids.pop(pid)
            now = time.monotonic()
            young = now - self._since[number] < YOUNG
            pause = self._pause[number]
            self._due[number] = now + (pause if young else 0.0)
            self._pause[number] = min(max(1.0, 2 * pause), LONGEST) if young else 0.0
            self._died(number, status)

    def _end_all(self) -> None:
        """Ask all to end, and wait for it; whoever asks a second time waits no longer."""
        for pid in self._pids:
            os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + self._grace
        while self._pids and len(self._asked) == 1 and time.monotonic() < until:
            self._wait(until - time.monotonic())
            for pid, _ in dead(self._pids):
                del self._pids[pid]


def dead(pids: Iterable[int]) -> list[tuple[int, int]]:
    """(pid, wait status) of those of these children that died; others are somebody else's."""
    found = [os.waitpid(pid, os.WNOHANG) for pid in pids]
    return [(pid, status) for pid, status in found if pid]
