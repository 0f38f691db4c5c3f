"""A folder of pictures as phones, network drives and chats leave it: what in it is a picture?

By name, because opening a million files takes hours: the extension decides, in any case of letters,
and the decoder looks at the bytes later, so a PNG called .jpg is no matter. Only names that say
nothing (no extension, ``mmexport.jpg!large``, ``cache.0``) are opened, for 32 bytes. Everything
that is passed over is told, with its kind, so that nobody wonders where 200 videos went.

Links to folders are followed out of the collection and nowhere else: what lies inside of it is met
anyway, under its own name.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wentu.errors import InputError
from wentu.language import pick


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


EXTENSIONS = _words(
    "jpg jpeg jpe jfif pjpeg pjp png apng webp gif bmp dib tif tiff mpo heic heics heif heifs hif "
    "avif avifs jp2 j2k j2c jpc jpf jpx ppm pgm pbm pnm pfm"
)
"""Of pictures that wentu/pictures reads, lower case, without the dot."""

VIDEOS = _words(
    "mp4 m4v mov qt avi mkv webm wmv asf flv f4v 3gp 3g2 mpg mpeg mpe m2v vob ts mts m2ts mod tod "
    "rm rmvb ogv dv divx insv lrv"
)
UNSUPPORTED = _words(
    # drawings and documents; livp is Apple's live photo, zipped by Chinese cloud drives
    "svg svgz psd psb ai eps cdr xcf kra clip procreate sketch fig emf wmf livp "
    # other coders
    "jxl jxr wdp hdp bpg flif tga pcx ico cur icns dds exr hdr qoi djvu "
    # cameras' raw files
    "dng cr2 cr3 crw nef nrw arw srf sr2 orf rw2 raf raw rwl pef srw x3f 3fr fff erf kdc dcr mrw "
    "iiq mos mef gpr"
)
"""Pictures that are not read: exporting them as JPEG or PNG is up to their owner."""

KINDS = ("video", "unsupported", "junk", "other", "unreadable", "link")
"""What is passed over: video; a picture in a format that is not read; what systems leave behind
(hidden files, thumbnails, recycle bins); any other file; what cannot be opened; a link to a folder
that the walk meets anyway, or that holds the collection."""

MOST_EXAMPLES = 200

_WORDS = {
    "video": ("video", "videos", "视频"),
    "unsupported": (
        "picture in a format not read",
        "pictures in formats not read",
        "格式不支持的图片",
    ),
    "junk": ("system or hidden file", "system or hidden files", "系统或隐藏文件"),
    "other": ("other file", "other files", "其他文件"),
    "unreadable": ("that cannot be opened", "that cannot be opened", "无法打开"),
    "link": ("link into the collection", "links into the collection", "指向本图库的链接"),
}

_JUNK_FILES = {"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"}
_JUNK_ENDS = re.compile(r"\.[0-9a-z]{1,5}(~|_original)\Z")  # what editors and exiftool keep
_JUNK_FOLDERS = {
    *("@eadir", "@tmp", "#recycle", "#snapshot"),  # Synology
    *("@recycle", "@recently-snapshot"),  # QNAP
    *("$recycle.bin", "system volume information"),  # Windows
    *("__macosx", "lost+found", "network trash folder", "temporary items"),  # macOS, Linux
}
_EXTENSION = re.compile(r"\.([0-9A-Za-z]{1,12})\s*\Z")
_SNIFFED = 32  # bytes of a file whose name says nothing

_STARTS: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(start, re.DOTALL), kind)
    for start, kind in (
        (rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|GIF8[79]a|II[*+]\0|MM\0[*+]", "picture"),
        (rb"BM.{12}[\x0c\x28\x6c\x7c]\0\0\0|\0\0\0\x0cjP  |\xff\x4f\xff\x51", "picture"),
        (rb"P[1-6fF]\s+(#[^\n]*\n\s*)?[0-9]", "picture"),
        (rb"....ftyp(....)*?(avi[fs]|he[iv][cxms]|mi[fa][12f]|msf1)", "picture"),
        (rb"....ftypcrx |FUJIFILMCCD|8BPS|\xff\x0a|\0\0\0\x0cJXL |<svg", "unsupported"),
        (rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI |FLV\x01|\0\0\x01[\xba\xb3]", "video"),
        (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11|\.RMF", "video"),
    )
)
"""How files begin: what ``pictures`` reads first."""

STORE_MARK = "wentu-store.json"
"""What a store has at its top; a store inside the collection is passed over."""

Tell = Callable[[str, str], object]
"""Is told (path, kind) of what is passed over; the path of a folder ends in a slash."""


class Skipped:
    """Counts what a walk passes over, by kind, and keeps the first 200 as examples.

    Attributes:
        counts: how many of each of KINDS.
        examples: (path, kind) in the order of the walk.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: list[tuple[str, str]] = []

    def add(self, path: str, kind: str) -> None:
        """One file, or one folder with all that is in it."""
        self.counts[kind] += 1
        if len(self.examples) < MOST_EXAMPLES:
            self.examples.append((path, kind))

    @property
    def total(self) -> int:
        """All that was passed over; a folder counts as one."""
        return self.counts.total()

    def __str__(self) -> str:
        """Half a sentence: ``passed over 5: 3 videos, 2 system or hidden files``."""
        if not self.total:
            return pick("nothing passed over", "没有跳过任何文件")
        counted = [(self.counts[kind], *_WORDS[kind]) for kind in KINDS if self.counts[kind]]
        return pick(
            f"passed over {self.total:,}: "
            + ", ".join(f"{n:,} {one if n == 1 else more}" for n, one, more, _ in counted),
            f"跳过 {self.total:,} 个：" + "、".join(f"{n:,} 个{zh}" for n, _, _, zh in counted),
        )


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


def kind_of_name(name: str) -> str:
    """``picture``, ``unknown`` (its first bytes would tell) or one of KINDS, of a file's name."""
    lower = name.lower()
    if name.startswith(".") or lower in _JUNK_FILES or _JUNK_ENDS.search(lower):
        return "junk"
    found = _EXTENSION.search(lower)
    extension = found[1] if found else ""
    if not extension or extension.isdigit():
        return "unknown"
    if extension in EXTENSIONS:
        return "picture"
    if extension in VIDEOS:
        return "video"
    return "unsupported" if extension in UNSUPPORTED else "other"


def kind_of_bytes(start: bytes) -> str:
    """``picture`` or one of KINDS, of the first 32 bytes of a file."""
    return next((kind for begins, kind in _STARTS if begins.match(start)), "other")


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
            return kind_of_bytes(file.read(_SNIFFED))

    def folder(self, path: str) -> str:
        """Enter it and return nothing, or the kind as which it is passed over."""
        name = path[:-1].rpartition("/")[2]
        if name.startswith(".") or name.lower() in _JUNK_FOLDERS:
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
