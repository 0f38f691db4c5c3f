"""What only this machine has of a store: digests of files by path, and what runs put out."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from wentu.digests import FILE
from wentu.listing import pictures_of
from wentu.orchestrate.local import is_alive
from wentu.storage import is_remote, local_path
from wentu.storage.s3 import Objects
from wentu.store import Release, Store

HOLDING = ("pairs", "pack-lmdb", "features", "index")
"""Tasks of a run whose outputs hold pictures, captions or vectors. The others' stay: models, and
what was measured, which compare and promote --anyway read."""


def forget_digests(store: Store, current: Release) -> None:
    """Drop remembered digests of files that are not in the current release's collection."""
    path = store.storage.home / FILE
    pictures = str(current.parameters.get("pictures", ""))
    if not path.exists() or not pictures:
        return
    top = _top(pictures)
    with closing(sqlite3.connect(path, timeout=60)) as db:
        db.execute("PRAGMA secure_delete = ON")
        db.execute("CREATE TEMP TABLE here (path TEXT PRIMARY KEY) WITHOUT ROWID")
        rows = pictures_of(store.inventory(current.inventory))
        db.executemany(
            "INSERT OR IGNORE INTO here VALUES (?)",
            ((os.fsencode(f"{top}/{row[1]}"),) for row in rows),
        )
        gone = db.execute("DELETE FROM seen WHERE path NOT IN (SELECT path FROM here)").rowcount
        db.commit()
        if gone:
            db.execute("VACUUM")


def _top(pictures: str) -> str:
    """What paths of a collection begin with, also where it is out of reach now."""
    if is_remote(pictures):
        return Objects(pictures).place
    return os.path.normpath(local_path(pictures).absolute())


def outputs_of_runs(store: Store, grace: float, *, remove: bool) -> Iterator[int]:
    """Take away what finished runs handed from stage to stage; yields each run's bytes.

    With them goes the cache that would hand them to later runs.
    """
    taken = False
    for run in sorted((store.storage.home / "runs").glob("*")):
        folders = [
            each
            for name in HOLDING
            for place in ("*", "*/for-loop-*")  # shards lie one deeper
            for each in run.glob(f"artifacts/{place}/{name}*")
            if each.name.rstrip("-0123456789") == name
        ]
        record = run / "run.json"
        young = grace and record.exists() and record.stat().st_mtime > time.time() - grace
        if not folders or young or is_alive(run):
            continue
        yield sum(_size(each) for each in folders)
        if remove:
            taken = True
            for each in folders:
                shutil.rmtree(each, ignore_errors=True)
    if taken:
        shutil.rmtree(store.storage.home / "cache", ignore_errors=True)


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
