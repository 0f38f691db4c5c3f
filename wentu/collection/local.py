"""A folder of pictures as phones, network drives and chats leave it.

Links to folders are followed out of the collection and nowhere else: what lies inside of it is met
anyway, under its own name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wentu.collection.interface import Collection, Found
from wentu.collection.names import SNIFFED, is_junk_folder, kind_of_bytes, kind_of_name
from wentu.collection.skipped import Tell
from wentu.errors import InputError
from wentu.formats import STORE_MARK


class LocalCollection(Collection):
    """The pictures below a folder of this machine."""

    def __init__(self, place: str, root: Path) -> None:
        super().__init__(place, os.path.normpath(root.absolute()), parallel=1)
        self.root = root

    def walk(self, skipped: Tell) -> Iterator[Found]:
        for path in walk(self.root, skipped):
            try:
                stat = (self.root / path).stat()
            except OSError:  # a dangling link, no permission
                yield Found(path=path)
                continue
            mark = f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ino}"
            yield Found(path=path, size=stat.st_size, mark=mark)

    def read(self, path: str) -> bytes:
        with open(f"{self.top}/{path}", "rb") as file:
            return file.read()

    def digest(self, path: str) -> str:
        with open(f"{self.top}/{path}", "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


def walk(root: Path, skipped: Tell) -> Iterator[str]:
    """Relative POSIX paths of the pictures below ``root``, in the order of ``sorted``.

    Streams: memory holds the names in one folder and in those above it, and two numbers for each
    folder behind a link. A picture that cannot be opened, a dangling link among them, is yielded
    like any other: whoever reads it knows better what is wrong with it.

    Raises InputError where ``root`` cannot be listed; of other folders ``skipped`` is told.
    """
    walker = _Walker(root, skipped)
    try:
        walker.enter("")
    except OSError as error:
        raise InputError(
            f"{root} cannot be listed ({error.strerror}).",
            f"无法列出 {root}（{error.strerror}）。",
        ) from error
    while walker.levels:
        level = walker.levels[-1]
        if not level.names:
            walker.levels.pop()
            continue
        path = level.path + level.names.pop()
        try:
            kind = walker.folder(path) if path.endswith("/") else walker.file(path)
        except OSError:  # no permission, gone meanwhile, a drive that fails
            kind = "unreadable"
        if kind == "picture":
            yield path
        elif kind:
            skipped(path, kind)


@dataclass
class _Level:
    """A folder that the walk is in."""

    path: str
    """Relative to the root; empty or with a slash at its end."""
    names: list[str]
    """What is still to be looked at, the next one last; a slash ends the names of folders."""
    behind_link: bool


class _Walker:
    """Where a walk is, and where it was behind links, so that no circle has no end."""

    def __init__(self, root: Path, skipped: Tell) -> None:
        self.levels: list[_Level] = []
        self._root, self._skipped = root, skipped
        self._real = root.resolve()
        self._been: set[tuple[int, int]] = set()  # device and inode of folders behind links

    def file(self, path: str) -> str:
        """Its kind, by its name or else by its first bytes; OSError where it cannot be opened."""
        kind = kind_of_name(path.rpartition("/")[2])
        if kind != "unknown":
            return kind
        with (self._root / path).open("rb") as file:
            return kind_of_bytes(file.read(SNIFFED))

    def folder(self, path: str) -> str:
        """Enter it and return nothing, or the kind as which it is passed over."""
        if is_junk_folder(path[:-1].rpartition("/")[2]):
            return "junk"
        full = self._root / path
        if (full / STORE_MARK).exists():  # thumbnails and plots of ours are no pictures of theirs
            return "other"
        behind = self.levels[-1].behind_link
        if full.is_symlink():
            real = full.resolve()
            if real.is_relative_to(self._real) or self._real.is_relative_to(real):
                return "link"
            behind = True
        if behind:
            stat = full.stat()
            if (stat.st_dev, stat.st_ino) in self._been:
                return "link"
            self._been.add((stat.st_dev, stat.st_ino))
        self.enter(path, behind)
        return ""

    def enter(self, path: str, behind_link: bool = False) -> None:
        """Go one level down; what is neither file nor folder (a pipe, say) is told right here."""
        names = []
        with os.scandir(self._root / path) as entries:
            for entry in entries:
                kind = _entry_kind(entry)
                if kind == "special":
                    self._skipped(path + entry.name, "other")
                else:
                    names.append(entry.name + ("/" if kind == "folder" else ""))
        # The slash makes this the order of whole paths: "a.jpg" comes before "a/b.jpg".
        names.sort(reverse=True)
        self.levels.append(_Level(path, names, behind_link))


def _entry_kind(entry: os.DirEntry[str]) -> str:
    """file, folder or special; a dangling link is a file, for what it is called."""
    try:
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() or entry.is_symlink() else "special"
    except OSError:  # a link to itself, a drive that fails
        return "file"
