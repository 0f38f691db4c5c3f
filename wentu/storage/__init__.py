"""Where files live: places on this machine and s3:// behind one small interface."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlparse

from wentu.errors import InputError
from wentu.storage.folder import Folder, link_or_copy
from wentu.storage.interface import REMOTE, Storage

__all__ = [
    "REMOTE",
    "Folder",
    "Storage",
    "is_remote",
    "link_or_copy",
    "local_copy",
    "local_path",
    "open_storage",
    "portable",
    "same_place",
]


def is_remote(place: str) -> bool:
    """Is the place in an object store?"""
    return place[: len(REMOTE)].lower() == REMOTE


def open_storage(place: str) -> Storage:
    """The storage that ``place`` (a path, a file:// URI or s3://bucket/prefix) names."""
    if not is_remote(place):
        return Folder(place, local_path(place))
    from wentu.storage.bucket import Bucket  # boto3 takes a while to import

    return Bucket(place)


def local_path(place: str) -> Path:
    """The local path that ``place`` (a path or a file:// URI) names.

    The local pipeline runner rewrites the word "python3" inside parameters, so paths that hold it
    are handed on percent-encoded, as file:// URIs (see ``portable``).
    """
    if is_remote(place):
        raise InputError(
            f"{place}: s3:// cannot be used here; give a local file or folder.",
            f"{place}：此处不支持 s3://，请使用本地文件或目录。",
        )
    if place.startswith("file://"):
        return Path(unquote(urlparse(place).path))
    return Path(place).expanduser()


def local_copy(place: str, wanted: Callable[[str], bool] | None = None) -> Path:
    """The local path that ``place`` names; of what is in an object store, that of a copy.

    wanted: of a folder there, only the files directly in it whose names this accepts.
    """
    if not is_remote(place):
        return local_path(place)
    from wentu.storage.copies import copy_of

    return copy_of(place, wanted)


def same_place(one: str, other: str) -> bool:
    """Do both name the same place?"""
    if is_remote(one) or is_remote(other):
        return one.rstrip("/") == other.rstrip("/")
    return local_path(one).resolve() == local_path(other).resolve()


def portable(place: str) -> str:
    """An absolute spelling of a place that survives the local pipeline runner."""
    if is_remote(place):
        if "python3" in place:  # the runner would rewrite it
            raise InputError(
                f"{place}: no place may be called python3 here; rename it.",
                f"{place}：此处的路径不能包含 python3；请重命名。",
            )
        return place.rstrip("/")
    path = str(local_path(place).absolute())
    if "python3" not in path and not path.startswith("file:"):
        return path
    return Path(path).as_uri().replace("python3", "pytho%6E3")
