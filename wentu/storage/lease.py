"""Locks in an object store, out of objects that can only be created.

    locks/<name>/00000007         who holds it; of several that create it, one gets it
    locks/<name>/00000007.alive   written again and again while the holder lives
    locks/<name>/00000007.free    it was given back

The highest number counts. It is free when it was given back, or when its holder has not been heard
of for LIFE seconds, by the server's clock alone. Then whoever creates the next number has it, if
there is no higher one: older numbers are removed, so a slow one could create one of them again.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from wentu.errors import ServiceError
from wentu.storage.s3 import Entry, Objects

LIFE = 90.0
RENEWAL = 20.0
PAUSE = 1.0
"""Seconds: a lease without a sign of life; between signs of life; between looks of who waits."""
_NAME = re.compile(r"(\d{8})(\.alive|\.free)?")


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A lock that this process got."""

    objects: Objects
    folder: str
    number: int

    def held(self) -> bool:
        """Has nobody taken it over, for want of a sign of life?"""
        return _highest(_entries(self.objects, self.folder)) == self.number


@contextmanager
def hold(objects: Objects, name: str, *, wait: bool) -> Iterator[Lease | None]:
    """Hold the lock ``name``; yields None where it was not got. A thread renews the lease."""
    folder = f"locks/{name}/"
    number = _take(objects, folder)
    while number is None and wait:
        time.sleep(PAUSE)
        number = _take(objects, folder)
    if number is None:
        yield None
        return
    key, done = f"{folder}{number:08d}", threading.Event()

    def renew() -> None:
        while not done.wait(RENEWAL):
            with suppress(ServiceError):  # the next one may get through
                objects.put(f"{key}.alive", b"")

    renewing = threading.Thread(target=renew, name=f"lease {name}", daemon=True)
    renewing.start()
    try:
        yield Lease(objects=objects, folder=folder, number=number)
    finally:
        done.set()
        renewing.join()
        with suppress(ServiceError):  # then it is free after LIFE
            objects.put(f"{key}.free", b"")


def _entries(objects: Objects, folder: str) -> dict[str, Entry]:
    listed = {entry.key.removeprefix(folder): entry for entry in objects.list(folder)}
    return {name: entry for name, entry in listed.items() if _NAME.fullmatch(name)}


def _highest(entries: dict[str, Entry]) -> int:
    return max((int(name) for name in entries if name.isdigit()), default=0)


def _take(objects: Objects, folder: str) -> int | None:
    """The number under which the lock is ours now; None: somebody has it."""
    entries = _entries(objects, folder)
    last = _highest(entries)
    if last and f"{last:08d}.free" not in entries and _lives(objects, entries, f"{last:08d}"):
        return None
    mine = f"{folder}{last + 1:08d}"
    who = {"host": socket.gethostname(), "process": os.getpid()}
    if not objects.put(mine, json.dumps(who).encode(), only_new=True):
        return None
    if _highest(_entries(objects, folder)) > last + 1:
        objects.delete([mine])
        return None
    old = [name for name in entries if int(name.partition(".")[0]) < last + 1]
    objects.delete(folder + name for name in old)
    return last + 1


def _lives(objects: Objects, entries: dict[str, Entry], name: str) -> bool:
    signs = [entries[each].changed for each in (name, f"{name}.alive") if each in entries]
    heard = max(sign for sign in signs if sign is not None)
    return (objects.now() - heard).total_seconds() < LIFE
