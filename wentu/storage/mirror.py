"""A local work folder and its copy in a bucket: files by their digest, and a list of them.

The list is one object, replaced whole, so what it names belongs together. Beside the files lies the
list that they go on from: where the bucket still has that one, what lies here is its successor.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from wentu.errors import StaleError
from wentu.formats import file_sha256, write_json
from wentu.storage.folder import inside, link_or_copy
from wentu.storage.s3 import Objects

FILES = ".files.json"
"""The list: {name: SHA-256}. Of a folder that was put it is written last."""
Files = dict[str, str]
Mark = tuple[int, int, int]
"""Inode, time and size of a file."""


class Mirror:
    """``local`` and what the bucket has of it under ``key``."""

    def __init__(self, objects: Objects, key: str, local: Path, held: Callable[[], bool]) -> None:
        self.objects, self.key, self.local, self._held = objects, key, local, held
        self._digests: dict[Mark, str] = {}
        self._there: Files = {}

    def pull(self) -> None:
        """Make the local folder what the bucket has, unless it goes on from just that."""
        self.local.mkdir(parents=True, exist_ok=True)
        for left in self.local.parent.glob(f".{self.local.name}-mirror-*"):
            shutil.rmtree(left, ignore_errors=True)  # of a process that was killed
        try:
            self._there = json.loads(self.objects.get(f"{self.key}/{FILES}"))
        except FileNotFoundError:
            return  # what lies here is from a process of this machine that never got to push
        known = self.local / FILES
        if known.exists() and json.loads(known.read_bytes()) == self._there:
            return
        for path in self._files():
            if path.relative_to(self.local).as_posix() not in self._there:
                path.unlink()
        for name, digest in self._there.items():
            path = inside(self.local, name, self.objects.place)
            if path.exists() and file_sha256(path) == digest:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.part")
            self.objects.download(f"{self.key}/{digest}", part)
            part.replace(path)
        write_json(known, self._there)

    def push(self) -> None:
        """Make the bucket's copy what the local folder is.

        Raises StaleError where another machine took the work over, for want of a sign of life.
        """
        with tempfile.TemporaryDirectory(
            dir=self.local.parent, prefix=f".{self.local.name}-mirror-"
        ) as folder:
            files = self._snapshot(Path(folder))
            if files is None or files == self._there:
                return
            if not self._held():
                raise StaleError(
                    f"{self.objects.place}/{self.key}: another process took this work over while "
                    "this one could not be heard of; what it did since is not kept.",
                    f"{self.objects.place}/{self.key}：本进程失去联系期间，该工作已被另一进程接管；"
                    "此后的结果不会保存。",
                )
            for name, digest in files.items():
                if digest not in self._there.values():
                    self.objects.put(f"{self.key}/{digest}", Path(folder) / name)
            self.objects.put(f"{self.key}/{FILES}", json.dumps(files).encode())
        write_json(self.local / FILES, files)
        gone = set(self._there.values()) - set(files.values())
        self.objects.delete(f"{self.key}/{digest}" for digest in gone)
        self._there = files

    def _snapshot(self, folder: Path) -> Files | None:
        """Links to all files as they were at one moment, and their digests; None: no rest."""
        for _ in range(50):
            before = self._marks()
            shutil.rmtree(folder)
            folder.mkdir()
            with suppress(FileNotFoundError):
                for name in before:
                    target = folder / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    link_or_copy(str(self.local / name), str(target))
                if self._marks() == before:
                    return {name: self._digest(folder / name, before[name]) for name in before}
            time.sleep(0.1)
        return None

    def _digest(self, path: Path, mark: Mark) -> str:
        if mark not in self._digests:
            self._digests[mark] = file_sha256(path)
        return self._digests[mark]

    def _marks(self) -> dict[str, Mark]:
        found = {}
        for path in self._files():
            with suppress(FileNotFoundError):
                stat = path.stat()
                mark = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
                found[path.relative_to(self.local).as_posix()] = mark
        return found

    def _files(self) -> list[Path]:
        """All but hidden ones, which are being written."""
        return sorted(p for p in self.local.rglob("*") if p.name[0] != "." and p.is_file())
