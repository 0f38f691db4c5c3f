"""Taking turns on the cores: FAISS brings threads of its own to every thread that calls it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def cores() -> int:
    """That this process may use."""
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


class Turns:
    """As many searches at once as there are cores; the others wait.

    One that is alone uses all cores, one that finds others at work uses one.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._free = threading.BoundedSemaphore(most)
        self._lock = threading.Lock()
        self._inside = 0

    @contextmanager
    def turn(self) -> Iterator[int]:
        """Wait for a turn; yields with how many threads to search."""
        with self._free:
            with self._lock:
                self._inside += 1
                threads = self.most if self._inside == 1 else 1
            try:
                yield threads
            finally:
                with self._lock:
                    self._inside -= 1


TURNS = Turns(cores())
"""Of this process."""


@contextmanager
def turn() -> Iterator[None]:
    """A turn in which FAISS, called by this thread, uses no more threads than are free."""
    import faiss

    with TURNS.turn() as threads:
        faiss.omp_set_num_threads(threads)  # OpenMP keeps this by calling thread
        yield
