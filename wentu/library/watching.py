"""The process that follows a library, as the service sees it: started again whenever it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

from wentu.language import pick
from wentu.library.place import Library
from wentu.progress import Lines

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before it is started again; twice as long each time that it ended soon."""


class Watch:
    """Keeps a follower of a library alive while it is entered."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._ended = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name="follower", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with self._lock:
            if self._child:
                self._child.kill()  # at any moment: see the top of wentu/library/__init__.py
        self._thread.join(timeout=10)

    def _keep(self) -> None:
        pause, crashed = FIRST_PAUSE, False
        while not self._ended.is_set():
            began = time.monotonic()
            with self._lock:
                if self._ended.is_set():
                    return
                place = str(self._library.store.storage.home)
                words = [sys.executable, "-m", "wentu.library.follow", place, str(os.getpid())]
                words += ["crashed"] if crashed else []
                self._child = subprocess.Popen(words, stdin=subprocess.DEVNULL)
            status = self._child.wait()
            if self._ended.is_set():
                return
            crashed = True
            Lines("library").tell(
                pick(
                    f"the process that follows {self._library.root} ended ({status}); it is "
                    "started again.",
                    f"跟踪 {self._library.root} 的进程已结束({status})，将重新启动。",
                )
            )
            long = time.monotonic() - began > LONGEST_PAUSE
            pause = FIRST_PAUSE if long else min(2 * pause, LONGEST_PAUSE)
            self._ended.wait(pause)
