"""The collection: which files are pictures, and their bytes; in a folder or in a bucket."""

from __future__ import annotations

from wentu.collection.interface import Collection, Found
from wentu.collection.local import LocalCollection, walk
from wentu.collection.skipped import Skipped
from wentu.errors import InputError
from wentu.storage import is_remote, local_path

__all__ = ["Collection", "Found", "LocalCollection", "Skipped", "open_collection", "walk"]


def open_collection(pictures: str) -> Collection:
    """The collection that ``--pictures`` names: a folder, which must exist, or s3://."""
    if is_remote(pictures):
        from wentu.collection.remote import RemoteCollection  # boto3 takes a while to import

        return RemoteCollection(pictures)
    root = local_path(pictures)
    if not root.is_dir():
        raise InputError(
            f"--pictures {pictures}: no such folder.", f"--pictures {pictures}：目录不存在。"
        )
    return LocalCollection(pictures, root)
