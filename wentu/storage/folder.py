"""A folder of this machine as storage."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from wentu.errors import InputError
from wentu.formats import file_sha256, write_atomic
from wentu.storage.interface import Storage, Stored


class Folder(Storage):
    """Objects are files, keys their paths below ``home``."""

    def __init__(self, place: str, root: Path) -> None:
        self.place, self.home = place, root.absolute()

    def exists(self, key: str) -> bool:
        return os.path.exists(f"{self.home}/{key}")

    def sha256(self, key: str) -> str:
        path = self.home / key
        return file_sha256(path) if path.is_file() else ""

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

    def walk(self, folder: str) -> Iterator[Stored]:
        for path, _, names in os.walk(f"{self.home}/{folder}"):
            for name in names:
                whole = f"{path}/{name}"
                with suppress(FileNotFoundError):  # somebody was quicker
                    stat = os.lstat(whole)
                    # Not the time of its content, which a link or a copy brings along.
                    changed = stat.st_ctime
                    yield Stored(
                        key=os.path.relpath(whole, self.home), size=stat.st_size, changed=changed
                    )

    def now(self) -> float:
        return time.time()

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with suppress(FileNotFoundError):
                os.unlink(f"{self.home}/{key}")

    def put_folder(self, source: Path, key: str) -> None:
        def fill(part: Path) -> None:
            shutil.copytree(source, part, copy_function=link_or_copy, dirs_exist_ok=True)

        made_once(self.home / key, fill)

    def folder(self, key: str) -> Path:
        path = self.home / key
        if not path.is_dir():
            raise absent(self.place, key)
        return path

    def remove(self, key: str) -> None:
        path = self.home / key
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        with suppress(FileNotFoundError):
            path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

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


def made_once(target: Path, fill: Callable[[Path], None]) -> Path:
    """``target``, a folder that ``fill`` makes: whole or not at all, by one of several that try."""
    if target.exists():
        return target
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        part.mkdir(parents=True)
        fill(part)
        with suppress(OSError):  # another one was first: the same content
            part.rename(target)
        if not target.exists():
            raise InputError(f"{target} could not be written.", f"无法写入 {target}。")
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def inside(folder: Path, name: str, place: str) -> Path:
    """The path of ``name`` below ``folder``; InputError where it would lie anywhere else.

    Keys of a bucket may be what no file can be called, ``../x`` and ``/x`` among them.
    """
    if not name or "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise InputError(
            f"{place}: {name!r} is no name that a file can have here; rename that object.",
            f"{place}：{name!r} 不能作为文件名；请重命名该对象。",
        )
    return folder / name


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
