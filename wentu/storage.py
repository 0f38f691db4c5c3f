"""Where files live: a small interface over a folder (and, with cluster support, s3://).

Everything that the store needs of a file system is here, and nothing more, so that an object store
can stand in for the folder: whole objects, atomic writes, create-only writes, listing by prefix.
Objects are never changed in place.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

from wentu.errors import InputError
from wentu.formats import write_atomic


def local_path(place: str) -> Path:
    """The local path that ``place`` (a path or a file:// URI) names.

    The local pipeline runner rewrites the word "python3" inside parameters, so paths that hold it
    are handed on percent-encoded, as file:// URIs (see ``portable``).
    """
    if place.startswith("s3://"):
        raise InputError(
            f"{place}: s3:// is not supported by this version; give a local folder.",
            f"{place}：本版本尚不支持 s3://，请使用本地目录。",
        )
    if place.startswith("file://"):
        return Path(unquote(urlparse(place).path))
    return Path(place).expanduser()


def portable(place: str) -> str:
    """An absolute spelling of a local place that survives the local pipeline runner."""
    path = str(local_path(place).absolute())
    if "python3" not in path and not path.startswith("file:"):
        return path
    return Path(path).as_uri().replace("python3", "pytho%6E3")


def collection_root(pictures: str) -> Path:
    """The collection's folder, which must exist."""
    root = local_path(pictures)
    if not root.is_dir():
        raise InputError(
            f"--pictures {pictures}: no such folder.", f"--pictures {pictures}：目录不存在。"
        )
    return root


class Storage:
    """A folder with whole-object semantics. Keys are relative POSIX paths."""

    def __init__(self, place: str) -> None:
        self.root = local_path(place).absolute()

    def path(self, key: str) -> Path:
        """The local path of an object or folder, to be read only."""
        return self.root / key

    def exists(self, key: str) -> bool:
        """Is there such an object or folder?"""
        return os.path.exists(f"{self.root}/{key}")

    def read(self, key: str) -> bytes:
        """The bytes of an object."""
        return self.path(key).read_bytes()

    def write(self, key: str, data: bytes) -> None:
        """Write an object, whole or not at all."""
        write_atomic(f"{self.root}/{key}", data)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object only if there is none: of several writers exactly one gets True."""
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        write_atomic(temporary, data)
        try:
            os.link(temporary, path)  # the only rename-like call that refuses to replace
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    def list(self, prefix: str) -> Iterator[str]:
        """Names directly under a folder, sorted; hidden and temporary ones left out."""
        folder = self.path(prefix)
        if folder.is_dir():
            yield from sorted(each.name for each in folder.iterdir() if each.name[0] != ".")

    def put_folder(self, source: Path, key: str) -> None:
        """Copy a folder whose name is its digest; one that is there already is left alone."""
        target = self.path(key)
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            shutil.copytree(source, temporary, copy_function=link_or_copy)
            with contextlib.suppress(OSError):  # another writer was first: the same content
                temporary.rename(target)
            if not target.exists():
                raise InputError(f"{target} could not be written.", f"无法写入 {target}。")
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold a lock that the system frees when this process dies; yields whether it was got."""
        import fcntl

        path = self.path(f"locks/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True


def link_or_copy(source: str, target: str) -> str:
    """Hard link where the file system can, else copy: our objects never change in place."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
