"""Locks in an object store, out of objects that can only be created.

    locks/<name>/00000007         who holds it; of several that create it, one gets it
    locks/<name>/00000007.alive   written again and again while the holder lives
    locks/<name>/00000007.free    it was given back

The highest number counts. It is free when it was given back, or when its holder has not been heard
of for LIFE seconds, by the server's clock alone. Then whoever creates the next number has it. Older
numbers are removed, the highest never, so a number is never given twice.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from wentu.errors import ServiceError
from wentu.storage.s3 import Entry, Objects

LIFE = 90.0
RENEWAL = 20.0
PAUSE = 1.0
"""Seconds: a lease without a sign of life; between signs of life; between looks of who waits."""


@contextmanager
def hold(objects: Objects, name: str, *, wait: bool) -> Iterator[bool]:
    """Hold the lock ``name``; yields whether it was got. The lease is renewed by a thread."""
    folder = f"locks/{name}/"
    number = _take(objects, folder)
    while number is None and wait:
        time.sleep(PAUSE)
        number = _take(objects, folder)
    if number is None:
        yield False
        return
    lease, done = f"{folder}{number:08d}", threading.Event()

    def renew() -> None:
        while not done.wait(RENEWAL):
            with suppress(ServiceError):  # the next one may get through
                objects.put(f"{lease}.alive", b"")

    renewing = threading.Thread(target=renew, name=f"lease {name}", daemon=True)
    renewing.start()
    try:
        yield True
    finally:
        done.set()
        renewing.join()
        objects.put(f"{lease}.free", b"")


def _take(objects: Objects, folder: str) -> int | None:
    """The number under which the lock is ours now; None: somebody has it."""
    entries = {entry.key.removeprefix(folder): entry for entry in objects.list(folder)}
    numbers = [int(name) for name in entries if name.isdigit()]
    last = max(numbers, default=0)
    if last and f"{last:08d}.free" not in entries and _lives(objects, entries, f"{last:08d}"):
        return None
    who = {"host": socket.gethostname(), "process": os.getpid(), "after": last}
    if not objects.put(f"{folder}{last + 1:08d}", json.dumps(who).encode(), only_new=True):
        return None
    old = [name for name in entries if int(name.partition(".")[0]) < last + 1]
    objects.delete(folder + name for name in old)
    return last + 1


def _lives(objects: Objects, entries: dict[str, Entry], name: str) -> bool:
    signs = [entries[each].changed for each in (name, f"{name}.alive") if each in entries]
    heard = max(sign for sign in signs if sign is not None)
    return (objects.now() - heard).total_seconds() < LIFE
