"""A folder of this machine as storage."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from wentu.errors import InputError
from wentu.formats import write_atomic
from wentu.storage.interface import Storage


class Folder(Storage):
    """Objects are files, keys their paths below ``home``."""

    def __init__(self, place: str, root: Path) -> None:
        self.place, self.home = place, root.absolute()

    def exists(self, key: str) -> bool:
        return os.path.exists(f"{self.home}/{key}")

    def read(self, key: str) -> bytes:
        with self.open(key) as file:
            return file.read()

    @contextmanager
    def open(self, key: str) -> Iterator[IO[bytes]]:
        try:
            file = open(f"{self.home}/{key}", "rb")
        except FileNotFoundError:
            raise absent(self.place, key) from None
        with file:
            yield file

    def write(self, key: str, data: bytes) -> None:
        write_atomic(f"{self.home}/{key}", data)

    def create(self, key: str, data: bytes | Path) -> bool:
        path = self.home / key
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        if isinstance(data, Path):
            shutil.copyfile(data, temporary)
        else:
            write_atomic(temporary, data)
        try:
            os.link(temporary, path)  # the only rename-like call that refuses to replace
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    def list(self, prefix: str) -> Iterator[str]:
        folder = self.home / prefix
        if folder.is_dir():
            yield from sorted(each.name for each in folder.iterdir() if each.name[0] != ".")

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with suppress(FileNotFoundError):
                os.unlink(f"{self.home}/{key}")

    def put_folder(self, source: Path, key: str) -> None:
        target = self.home / key
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            shutil.copytree(source, temporary, copy_function=link_or_copy)
            with suppress(OSError):  # another writer was first: the same content
                temporary.rename(target)
            if not target.exists():
                raise InputError(f"{target} could not be written.", f"无法写入 {target}。")
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def folder(self, key: str) -> Path:
        path = self.home / key
        if not path.is_dir():
            raise absent(self.place, key)
        return path

    @contextmanager
    def lock(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """A lock of the system, which frees it when this process dies."""
        import fcntl  # there is none on Windows, where a store can be read

        path = self.home / "locks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True

    @contextmanager
    def work(self, name: str) -> Iterator[Path]:
        with self.lock(f"work-{name}"):
            path = self.home / "work" / name
            path.mkdir(parents=True, exist_ok=True)
            yield path


def absent(place: str, key: str) -> InputError:
    """There is no such object."""
    return InputError(f"{place} has no {key}.", f"{place} 中没有 {key}。")


def link_or_copy(source: str, target: str) -> str:
    """Hard link where the file system can, else copy: our objects never change in place."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
