"""What a store needs of a file system, and nothing more: whole objects, whose keys are paths.

Objects are written whole or not at all and never changed in place, so what was read once may be
kept. A folder and a bucket of an object store both can do this (folder.py, bucket.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

REMOTE = "s3://"
"""How places in an object store begin."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """An object as it lies there."""

    key: str
    size: int
    """In bytes."""
    changed: float
    """When it came here, by the place's clock: seconds since 1970."""


class Storage(ABC):
    """A place with whole-object semantics. Keys are relative POSIX paths.

    Attributes:
        place: as the user named it.
        home: a folder on this machine for what only this machine needs: logs, caches, the state
            of a training. Of a local place it is that place.
    """

    place: str
    home: Path

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Is there such an object?"""

    @abstractmethod
    def sha256(self, key: str) -> str:
        """Hex SHA-256 of an object as it lies there; empty where there is none."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The bytes of an object; InputError where there is none."""

    @abstractmethod
    def open(self, key: str) -> AbstractContextManager[IO[bytes]]:
        """An object to be read bit by bit; InputError where there is none."""

    @abstractmethod
    def write(self, key: str, data: bytes) -> None:
        """Write an object, whole or not at all."""

    @abstractmethod
    def create(self, key: str, data: bytes | Path) -> bool:
        """Write an object only if there is none: of several writers exactly one gets True.

        ``data`` may be a file, which is then not read into memory.
        """

    @abstractmethod
    def list(self, prefix: str) -> Iterator[str]:
        """Names directly under a folder, sorted; hidden and temporary ones left out."""

    @abstractmethod
    def walk(self, folder: str) -> Iterator[Stored]:
        """Everything under a folder ("": the whole place), hidden and temporary objects too."""

    @abstractmethod
    def now(self) -> float:
        """The place's clock: seconds since 1970."""

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are not there are no matter."""

    @abstractmethod
    def put_folder(self, source: Path, key: str) -> None:
        """Copy a folder whose name is its digest; one that is there already is left alone."""

    @abstractmethod
    def folder(self, key: str) -> Path:
        """A local copy of a folder that was put, to be read only; InputError where none was."""

    @abstractmethod
    def remove(self, key: str) -> None:
        """Take a folder away: to whoever looks it is there whole, or not at all."""

    @abstractmethod
    def lock(self, name: str, *, wait: bool = True) -> AbstractContextManager[bool]:
        """Hold a lock that is free again when its holder dies; yields whether it was got."""

    @abstractmethod
    def work(self, name: str) -> AbstractContextManager[Path]:
        """A local folder that survives a crash, held by one process at a time.

        What is in it when the process is killed is there again when it is asked for next, on this
        machine or, of a bucket, on another one. Files in it are replaced, never changed in place.
        """
