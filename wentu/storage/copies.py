"""Copies on this machine of what users name in a bucket: captions, checkpoints, a suite."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wentu.errors import InputError
from wentu.formats import digest_of
from wentu.settings import cache_folder
from wentu.storage.folder import inside, made_once
from wentu.storage.interface import REMOTE
from wentu.storage.s3 import Entry, Objects, threads


def copy_of(place: str, wanted: Callable[[str], bool] | None = None) -> Path:
    """A copy of the object, or of the folder, that ``place`` names; made anew when it changed.

    wanted: of a folder only the files directly in it whose names this accepts; else everything.
    Raises InputError where there is nothing.
    """
    bucket, _, key = place[len(REMOTE) :].rstrip("/").partition("/")
    objects, name = Objects(REMOTE + bucket), key.rpartition("/")[2] or bucket
    head = objects.head(key) if key else None
    if head:
        entries, below = [Entry(key=key, etag=head["ETag"])], len(key) - len(name)
    else:
        below = len(key) + 1 if key else 0
        listed = objects.list(f"{key}/" if key else "", deep=wanted is None)
        entries = [
            entry
            for entry in listed
            if not entry.key.endswith("/") and (wanted is None or wanted(entry.key[below:]))
        ]
    if not entries:
        raise InputError(f"{place}: nothing is there.", f"{place}：该处没有任何对象。")
    version = digest_of([place, sorted((entry.key, entry.etag) for entry in entries)])[:16]

    def fill(folder: Path) -> None:
        top = folder if head else folder / name

        def fetch(entry: Entry) -> None:
            path = inside(top, entry.key[below:], objects.place)
            path.parent.mkdir(parents=True, exist_ok=True)
            objects.download(entry.key, path)

        with ThreadPoolExecutor(threads()) as pool:
            list(pool.map(fetch, entries))

    return made_once(cache_folder() / "inputs" / version, fill) / name
