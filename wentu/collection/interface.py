"""What the stages need of a collection of pictures, wherever it lies."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

from wentu.collection.skipped import Tell
from wentu.errors import InputError
from wentu.formats import bytes_digest


class Found(NamedTuple):
    """A picture that a walk met; a tuple, for there may be millions."""

    path: str
    """Relative to the collection, with slashes."""
    size: int = 0
    """In bytes."""
    mark: str = ""
    """Another one whenever the content is another one; empty where it cannot be opened."""


class Collection(ABC):
    """The user's pictures: never changed, only listed and read.

    Attributes:
        place: as the user named it. top: the same, absolute; what captions may name paths by.
        parallel: how many reads at a time are worth it.
    """

    def __init__(self, place: str, top: str, parallel: int) -> None:
        self.place, self.top, self.parallel = place, top, parallel

    @abstractmethod
    def walk(self, skipped: Tell) -> Iterator[Found]:
        """The pictures in the order of their paths, as ``sorted`` has it; what is not one is told.

        Streams: memory does not grow with the number of pictures.
        """

    @abstractmethod
    def read(self, path: str) -> bytes:
        """The bytes of a file; OSError where it is gone or cannot be opened."""

    def digest(self, path: str) -> str:
        """Hex BLAKE2b-256 of a file's bytes, which is what a picture is known by."""
        return hashlib.blake2b(self.read(path), digest_size=32).hexdigest()

    def read_unchanged(self, path: str, digest: bytes) -> bytes:
        """A file's bytes, if they still have that digest; InputError where it was edited."""
        data = self.read(path)
        if bytes_digest(data) != digest:
            raise InputError(
                f"{self.top}/{path} was changed during the run; run again.",
                f"{self.top}/{path} 在运行期间被修改；请重新运行。",
            )
        return data
