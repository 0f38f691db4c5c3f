"""A bucket of an object store (S3 and what speaks its protocol) as storage."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from wentu.errors import ServiceError, StaleError
from wentu.formats import digest_of, file_sha256, folder_sha256, write_json
from wentu.settings import cache_folder
from wentu.storage import lease
from wentu.storage.folder import absent, inside, made_once
from wentu.storage.interface import Storage, Stored
from wentu.storage.mirror import FILES, Mirror
from wentu.storage.s3 import Objects, threads

MIRRORED = 30.0
"""Seconds between looks whether a work folder has changed."""


class Bucket(Storage):
    """Objects are those of ``s3://bucket/prefix``; folders that were fetched stay in a cache."""

    def __init__(self, place: str) -> None:
        self.objects = Objects(place)
        self.place = self.objects.place
        server = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        self.home = cache_folder() / "stores" / digest_of([server, self.place])[:16]

    def exists(self, key: str) -> bool:
        return self.objects.head(key) is not None

    def sha256(self, key: str) -> str:
        head = self.objects.head(key)
        return self.objects.sha_of(head) if head else ""

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

    def walk(self, folder: str) -> Iterator[Stored]:
        for entry in self.objects.list(f"{folder}/" if folder else "", deep=True):
            changed = entry.changed.timestamp() if entry.changed else 0.0
            yield Stored(key=entry.key, size=entry.size, changed=changed)

    def now(self) -> float:
        return self.objects.now().timestamp()

    def delete(self, keys: Iterable[str]) -> None:
        self.objects.delete(keys)

    # --- folders -------------------------------------------------------------------------------

    def put_folder(self, source: Path, key: str) -> None:
        if self.exists(f"{key}/{FILES}"):
            return
        files = folder_sha256(source, manifest=True)
        _each(lambda name: self.objects.put(f"{key}/{name}", source / name), files)
        self.write(f"{key}/{FILES}", json.dumps(files).encode())

    def folder(self, key: str) -> Path:
        target = self.home / key
        listed = target.with_name(f".{target.name}{FILES}")
        if listed.exists() and target.exists():
            files = json.loads(listed.read_bytes())
            if not all((target / name).exists() for name in files):  # somebody tidied the cache
                self._fetch(key, files, target)
            return target
        files = json.loads(self.read(f"{key}/{FILES}"))
        made_once(target, lambda part: self._fetch(key, files, part))
        write_json(listed, files)
        return target

    def _fetch(self, key: str, files: dict[str, str], into: Path) -> None:

        def fetch(name: str) -> None:
            path = inside(into, name, self.place)
            if path.exists() and file_sha256(path) == files[name]:
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.{threading.get_ident()}.part")
            try:
                arrived = self.objects.download(f"{key}/{name}", part)
            except FileNotFoundError:
                raise absent(self.place, f"{key}/{name}") from None
            if arrived != files[name]:
                part.unlink()
                raise ServiceError(
                    f"{self.place}/{key}/{name} is not the file that was put there.",
                    f"{self.place}/{key}/{name} 与存入时不同。",
                )
            part.replace(path)

        _each(fetch, files)

    def remove(self, key: str) -> None:
        names = {each.key for each in self.walk(key)}
        self.delete(names & {f"{key}/{FILES}"})  # without its list a folder is not there
        self.delete(names - {f"{key}/{FILES}"})
        copy = self.home / key
        copy.with_name(f".{copy.name}{FILES}").unlink(missing_ok=True)
        shutil.rmtree(copy, ignore_errors=True)

    # --- locks and work ------------------------------------------------------------------------

    @contextmanager
    def lock(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        with lease.hold(self.objects, name, wait=wait) as got:
            yield got is not None

    @contextmanager
    def work(self, name: str) -> Iterator[Path]:
        """A local folder whose files are kept in the bucket too, by a thread while it is used."""
        with lease.hold(self.objects, f"work-{name}", wait=True) as got:
            assert got is not None, "waited for"
            local = self.home / "work" / name
            mirror = Mirror(self.objects, f"work/{name}", local, got.held)
            mirror.pull()
            done = threading.Event()

            def follow() -> None:
                while not done.wait(MIRRORED):
                    with suppress(ServiceError, StaleError, OSError):  # the last one tells
                        mirror.push()

            following = threading.Thread(target=follow, name=f"mirror {name}", daemon=True)
            following.start()
            try:
                yield local
            except BaseException:
                done.set()
                following.join()
                with suppress(ServiceError, StaleError, OSError):  # what went wrong first is told
                    mirror.push()
                raise
            done.set()
            following.join()
            mirror.push()


def _each(do: Callable[[str], object], names: Iterable[str]) -> None:
    with ThreadPoolExecutor(threads()) as pool:
        for _ in pool.map(do, list(names)):
            pass
