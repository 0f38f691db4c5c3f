"""What the workers of a service tell each other: whether they can answer, and what they counted.

A place for each in memory that they share, which outlives them: so whichever is asked answers for
all, and one that takes the place of another counts on from what that one had counted. A place is
written by one process only, without a lock that it could die with; who reads it in between sees by
its check sum that it is not whole, and looks again.
"""

from __future__ import annotations

import json
import mmap
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict

from wentu.search.metrics import Labels, Sample

ROOM = 1 << 19
"""Bytes of a place; what is never written takes no memory. A page of figures takes some 20,000."""
AWAY, WAITING, READY = 0, 1, 2
"""Takes no connections; takes them and has no release yet; has one."""


class Board:
    """See the top of this file. Made before the workers are."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._states = mmap.mmap(-1, workers + 1)
        self._figures = mmap.mmap(-1, workers * ROOM)
        self._before: dict[tuple[str, Labels], Sample] = {}

    def set(self, number: int, state: int) -> None:
        """A worker's state; of one that died, the supervisor says that it is AWAY."""
        self._states[number] = state
        if state == READY:
            self._states[self.workers] = READY

    def ever_ready(self) -> bool:
        """Was there one that could answer?"""
        return self._states[self.workers] == READY

    def all_ready(self) -> bool:
        """Can whoever takes connections answer?"""
        return WAITING not in self._states[: self.workers]

    def succeed(self, number: int) -> None:
        """Take the place of a worker that died: what it counted counts on."""
        self._before = {each.key: each for each in self._read(number) if each.adds_up}

    def post(self, number: int, samples: Iterable[Sample]) -> None:
        """Show what this worker has counted."""
        rows = dict(self._before)
        for each in samples:
            rows[each.key] = each.plus(rows[each.key].value) if each.key in rows else each
        text = json.dumps([asdict(each) for each in rows.values()]).encode()
        if len(text) + 8 <= ROOM:
            place = struct.pack("!II", len(text), zlib.crc32(text)) + text
            self._figures[number * ROOM : number * ROOM + len(place)] = place

    def all(self) -> Iterator[Sample]:
        """What all have counted: counters added up, gauges with the number of the worker."""
        total: dict[tuple[str, Labels], Sample] = {}
        for number in range(self.workers):
            for each in self._read(number):
                if each.adds_up:
                    same = total.get(each.key)
                    total[each.key] = each.plus(same.value) if same else each
                elif self._states[number] != AWAY:
                    mine = each.of(number)
                    total[mine.key] = mine
        yield from total.values()

    def _read(self, number: int) -> list[Sample]:
        start = number * ROOM
        for _ in range(50):
            size, check = struct.unpack_from("!II", self._figures, start)
            text = self._figures[start + 8 : start + 8 + min(size, ROOM - 8)]
            if zlib.crc32(text) == check:
                return [Sample(**each) for each in json.loads(text)] if text else []
            time.sleep(0.001)  # it is being written, or its writer died of it
        return []
