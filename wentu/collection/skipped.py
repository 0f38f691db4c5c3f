"""What a walk passes over is told, with its kind: nobody has to wonder where 200 videos went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from wentu.language import pick

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
