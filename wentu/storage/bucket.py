"""A bucket of an object store (S3 and what speaks its protocol) as storage."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO

from wentu.errors import ServiceError
from wentu.formats import digest_of, file_sha256, folder_sha256
from wentu.settings import cache_folder
from wentu.storage import lease
from wentu.storage.folder import absent, link_or_copy
from wentu.storage.interface import Storage
from wentu.storage.s3 import Objects, threads

FILES = ".files.json"
"""What a folder holds, by SHA-256: written last, so that without it the folder is not there."""
MIRRORED = 30.0
"""Seconds between looks whether a work folder has changed."""


class Bucket(Storage):
    """Objects are those of ``s3://bucket/prefix``; folders that were fetched stay in a cache."""

    def __init__(self, place: str) -> None:
        self.objects = Objects(place)
        self.place = self.objects.place
        self.home = cache_folder() / "stores" / digest_of(self.place)[:16]

    def exists(self, key: str) -> bool:
        return self.objects.head(key) is not None

    def read(self, key: str) -> bytes:
        try:
            return self.objects.get(key)
        except FileNotFoundError:
            raise absent(self.place, key) from None

    @contextmanager
    def open(self, key: str) -> Iterator[IO[bytes]]:
        """Whole on this machine before the first byte is read: a stream could break off."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "object"
            try:
                self.objects.download(key, path)
            except FileNotFoundError:
                raise absent(self.place, key) from None
            with path.open("rb") as file:
                yield file

    def write(self, key: str, data: bytes) -> None:
        self.objects.put(key, data)

    def create(self, key: str, data: bytes | Path) -> bool:
        return self.objects.put(key, data, only_new=True)

    def list(self, prefix: str) -> Iterator[str]:
        folder = f"{prefix}/"
        for entry in self.objects.list(folder):
            name = entry.key.removeprefix(folder).rstrip("/")
            if name and name[0] != ".":
                yield name

    def delete(self, keys: Iterable[str]) -> None:
        self.objects.delete(keys)

    # --- folders -------------------------------------------------------------------------------

    def put_folder(self, source: Path, key: str) -> None:
        if self.exists(f"{key}/{FILES}"):
            return
        files = folder_sha256(source, manifest=True)
        self._each(lambda name: self.objects.put(f"{key}/{name}", source / name), files)
        self.write(f"{key}/{FILES}", json.dumps(files).encode())

    def folder(self, key: str) -> Path:
        target = self.home / key
        if target.exists():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as part:
            self._fetch(key, Path(part))
            with suppress(OSError):  # another process was first: the same content
                Path(part).rename(target)
                Path(part).mkdir()  # for the one who wants to remove it
        return target

    def _fetch(self, key: str, into: Path) -> None:
        files = json.loads(self.read(f"{key}/{FILES}"))

        def fetch(name: str) -> None:
            path = into / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.objects.download(f"{key}/{name}", path)
            except FileNotFoundError:
                raise absent(self.place, f"{key}/{name}") from None
            if file_sha256(path) != files[name]:
                raise ServiceError(
                    f"{self.place}/{key}/{name} is not the file that was put there.",
                    f"{self.place}/{key}/{name} 与存入时不同。",
                )

        self._each(fetch, files)

    @staticmethod
    def _each(do: Callable[[str], object], names: Iterable[str]) -> None:
        with ThreadPoolExecutor(threads()) as pool:
            for _ in pool.map(do, list(names)):
                pass

    # --- locks and work ------------------------------------------------------------------------

    def lock(self, name: str, *, wait: bool = True) -> AbstractContextManager[bool]:
        return lease.hold(self.objects, name, wait=wait)

    @contextmanager
    def work(self, name: str) -> Iterator[Path]:
        """A local folder whose files are kept in the bucket too, by a thread while it is used."""
        with self.lock(f"work-{name}"):
            mirror = _Mirror(self.objects, f"work/{name}", self.home / "work" / name)
            mirror.pull()
            done = threading.Event()

            def follow() -> None:
                while not done.wait(MIRRORED):
                    with suppress(ServiceError):  # the next one may get through
                        mirror.push()

            following = threading.Thread(target=follow, name=f"mirror {name}", daemon=True)
            following.start()
            try:
                yield mirror.local
            finally:
                done.set()
                following.join()
                mirror.push()


class _Mirror:
    """A local folder and its copy in the bucket: files by their digest, and a list of them.

    The list is one object, replaced whole, so what it names belongs together.
    """

    def __init__(self, objects: Objects, key: str, local: Path) -> None:
        self.objects, self.key, self.local = objects, key, local
        self._known: dict[tuple[int, int, int], str] = {}
        self._there: dict[str, str] = {}

    def pull(self) -> None:
        """Make the local folder what the bucket has."""
        self.local.mkdir(parents=True, exist_ok=True)
        try:
            self._there = json.loads(self.objects.get(f"{self.key}/{FILES}"))
        except FileNotFoundError:
            return  # what lies here is from a process of this machine that never got to push
        for path in self._files():
            if path.relative_to(self.local).as_posix() not in self._there:
                path.unlink()
        for name, digest in self._there.items():
            path = self.local / name
            if path.exists() and file_sha256(path) == digest:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.part")
            self.objects.download(f"{self.key}/{digest}", part)
            part.replace(path)

    def push(self) -> None:
        """Make the bucket's copy what the local folder is."""
        with tempfile.TemporaryDirectory(dir=self.local.parent, prefix=".mirror-") as folder:
            files = self._snapshot(Path(folder))
            if files is None or files == self._there:
                return
            for name, digest in files.items():
                if digest not in self._there.values():
                    self.objects.put(f"{self.key}/{digest}", Path(folder) / name)
            self.objects.put(f"{self.key}/{FILES}", json.dumps(files).encode())
        gone = set(self._there.values()) - set(files.values())
        self.objects.delete(f"{self.key}/{digest}" for digest in gone)
        self._there = files

    def _snapshot(self, folder: Path) -> dict[str, str] | None:
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

    def _digest(self, path: Path, mark: tuple[int, int, int]) -> str:
        if mark not in self._known:
            self._known[mark] = file_sha256(path)
        return self._known[mark]

    def _marks(self) -> dict[str, tuple[int, int, int]]:
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
