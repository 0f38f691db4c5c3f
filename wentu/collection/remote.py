"""Pictures in a bucket of an object store, below a prefix."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from wentu.collection.interface import Collection, Found
from wentu.collection.names import SNIFFED, is_junk_folder, kind_of_bytes, kind_of_name
from wentu.collection.skipped import Tell
from wentu.errors import ServiceError
from wentu.formats import STORE_MARK
from wentu.storage.s3 import Objects, code_of

STORE_ROOMS = {STORE_MARK, "attempts", "inventories", "locks", "models", "pointer", "releases"}
STORE_ROOMS |= {"segments", "splits", "thumbnails", "work"}
"""What a store inside the collection has first, by name: only there its mark is asked for."""


READS = 16
"""At once: whoever reads also decodes, and that takes memory."""
_UNREADABLE = ("AccessDenied", "InvalidObjectState")


class RemoteCollection(Collection):
    """The pictures below ``s3://bucket/prefix``."""

    def __init__(self, place: str) -> None:
        self._objects = Objects(place)
        super().__init__(place, self._objects.place, parallel=READS)

    def walk(self, skipped: Tell) -> Iterator[Found]:
        # S3 lists by the bytes of UTF-8, which is the order of code points, as of ``sorted``.
        over = before = ""  # the folder that is being passed over; that of the key before this one
        for key, size, etag, _ in self._objects.list(deep=True):
            if over and key.startswith(over):
                continue
            folder, slash, name = key.rpartition("/")
            folder += slash
            if over or folder != before:
                over = self._folder_to_skip(key, before, skipped)
                before = folder
            if over or not name:  # consoles make empty objects for folders
                continue
            kind = kind_of_name(name)
            if kind == "unknown":
                kind = kind_of_bytes(self._objects.get(key, start=SNIFFED) if size else b"")
            if kind == "picture":
                yield Found(key, size, f"{size}:{etag}")
            else:
                skipped(key, kind)

    def _folder_to_skip(self, key: str, before: str, skipped: Tell) -> str:
        """The first folder of the key that is none of the collection's; told, too.

        Folders that it shares with the key before it were looked at then.
        """
        at = key.find("/")
        while at >= 0:
            folder = key[: at + 1]
            if not before.startswith(folder):
                junk = is_junk_folder(key[:at].rpartition("/")[2])
                room = key[at + 1 :].partition("/")[0]
                if junk or (room in STORE_ROOMS and self._objects.head(folder + STORE_MARK)):
                    skipped(folder, "junk" if junk else "other")
                    return folder
            at = key.find("/", at + 1)
        return ""

    def read(self, path: str) -> bytes:
        try:
            return self._objects.get(path)
        except ServiceError as error:
            if isinstance(error.__cause__, Exception) and code_of(error.__cause__) in _UNREADABLE:
                # This one object: a right that it lacks, or that it lies in an archive.
                raise PermissionError(errno.EACCES, str(error)) from None
            raise
