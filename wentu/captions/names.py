"""Names as captions: of files (``--captions names``) or of their folders (``folder``).

A name is a caption if something is left of it once everything is gone that cameras, chats and
copying put there. Numbers in front go where they are a numbering (``numbering``). Two passes over
the paths: one to see the names of each folder, one to count; memory grows with the folders only.
"""

from __future__ import annotations

import hashlib
import heapq
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator

from wentu.captions.numbering import Numbered, Numbering
from wentu.captions.rows import whole
from wentu.captions.words import EMPTY_BESIDE_NUMBERS, EMPTY_FOLDERS, EMPTY_NAMES
from wentu.errors import InputError

Paths = Callable[[], Iterable[str]]

SAMPLES, EXAMPLES = 10, 3

_COPY = re.compile(
    r"(?:\s*[(（]\d{1,4}[)）]|\s*[-_]?\s*的?(?:副本|拷贝)(?:\s*\d{1,3})?"
    r"|[\s_-]+copy(?:[\s_]*\d{1,3})?)$",
    re.IGNORECASE,
)
_JOINED = re.compile(r"(?<=[0-9A-Za-zÀ-ɏ])[_+]+(?=[0-9A-Za-zÀ-ɏ])")
_SCREEN = re.compile(
    r"(?:screenshot|screen ?shot|屏幕截图|屏幕快照|截图|截屏)[\W_]*\d.*", re.IGNORECASE
)
_CODE = re.compile(r"_*[a-z]{1,4}[-_ ]?\d{4,}", re.IGNORECASE)
_DCF = re.compile(r"\d{3}[A-Z0-9_]{5}")
"""Folders that cameras make: 100APPLE, 101CANON."""
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_HASH = re.compile(r"(?=[a-f]*\d)[0-9a-f]{8,}", re.IGNORECASE)
_PIECES = re.compile(r"\d+|[a-z]+", re.IGNORECASE)


def cleaned(name: str) -> str:
    """A name without what copying puts behind it; Latin words apart."""
    text = unicodedata.normalize("NFC", whole(name))
    while (shorter := _COPY.sub("", text)) != text:
        text = shorter
    return _JOINED.sub(" ", text).strip(" \t\n_-")


def says_something(name: str, more: frozenset[str] = frozenset()) -> bool:
    """Is a name a caption? more: further words that say nothing."""
    if _SCREEN.fullmatch(name) or _CODE.fullmatch(name):
        return False
    tokens = [part for part in re.split(r"[\W_]+", _UUID.sub(" ", name)) if not _is_code(part)]
    silent = EMPTY_NAMES | more
    if re.search(r"\d", name):
        silent |= EMPTY_BESIDE_NUMBERS
    words = [run for token in tokens for run in re.split(r"\d+", token)]
    words = [run for run in words if run.casefold() not in silent]
    letters = "".join(run for run in words if len(run) > 1 or not run.isascii())
    if not any(letter.isalpha() for letter in letters):
        return False
    return len(set(letters.casefold())) > 1 or (len(letters) < 3 and not letters.isascii())


def _is_code(token: str) -> bool:
    """Is it a hash, or letters and digits without sense (v2, 720w, 006y8mN6gy1h5kq)?"""
    if _HASH.fullmatch(token):
        return True
    pieces = _PIECES.findall(token)
    if "".join(pieces) != token or len(pieces) < 2:
        return False
    return len(token) <= 4 or (len(token) >= 10 and len(pieces) >= 4)


class _Captioner:
    """The caption of each path, after one pass over all of them."""

    def __init__(self, paths: Paths, *, folders: bool) -> None:
        self._folders = folders
        self._known: dict[str, str | None] = {}
        places = self._distinct(paths()) if folders else paths()
        split = (self._split(place) for place in places)
        self._numbering = Numbering(
            (group, name) for group, name in split if self._may_be_caption(name)
        )

    def caption(self, path: str) -> str | None:
        """The caption that a path's name is; None where it is none."""
        if not self._folders:
            return self._of(path)
        folder = path.rpartition("/")[0]
        if folder not in self._known:
            self._known[folder] = self._of(folder)
        return self._known[folder]

    def _of(self, place: str) -> str | None:
        group, name = self._split(place)
        text = self._numbering.strip(group, name).strip()
        return text if self._says_something(text) else None

    def _may_be_caption(self, name: str) -> bool:
        numbered = Numbered.of(name)  # 12月 may be December, or the moon, number twelve
        return self._says_something(name) or bool(numbered and self._says_something(numbered.rest))

    def _says_something(self, name: str) -> bool:
        if not self._folders:
            return says_something(name)
        return not _DCF.fullmatch(name) and says_something(name, EMPTY_FOLDERS)

    def _split(self, place: str) -> tuple[str, str]:
        """(what it lies in, its own name, cleaned) of a file or a folder."""
        group, _, name = place.rpartition("/")
        return group, cleaned(name if self._folders else name.rpartition(".")[0] or name)

    @staticmethod
    def _distinct(paths: Iterable[str]) -> Iterator[str]:
        seen = set()
        for path in paths:
            folder = path.rpartition("/")[0]
            if folder not in seen:
                seen.add(folder)
                yield folder


class NameCaptions:
    """Captions that are names, and how many pictures have one."""

    def __init__(self, paths: Paths, *, folders: bool = False) -> None:
        """InputError where names are no captions for at least half of the pictures."""
        self._own = _Captioner(paths, folders=folders)
        other = _Captioner(paths, folders=not folders)
        self._folders = folders
        self.captioned = self.without = 0
        self._other = self._repeating = 0
        samples, examples = _Spread(SAMPLES), _Spread(EXAMPLES)
        for path in paths():
            text, else_text = self._own.caption(path), other.caption(path)
            self._other += else_text is not None
            if text is None:
                self.without += 1
                examples.add(path, "")
                continue
            self.captioned += 1
            samples.add(path, text)
            if else_text is not None:
                one, two = text.casefold(), else_text.casefold()
                self._repeating += one in two or two in one
        self._refuse(", ".join(path for path, _ in examples.items()))
        self.samples = samples.items()

    def caption(self, path: str) -> str | None:
        """The caption that the name of a picture (or of its folder) is; None: it is none."""
        return self._own.caption(path)

    def _refuse(self, shown: str) -> None:
        """InputError where another option is the better one, naming it; shown: examples."""
        total = self.captioned + self.without
        enough = 2 * self.captioned >= total
        # Where most names only repeat their folder's, the folder is what names the pictures; and
        # if it names more of them, nothing speaks for the files.
        repeating = 2 * self._repeating > self.captioned and self._other > self.captioned
        if enough and (self._folders or not repeating):
            return
        if enough:
            raise InputError(
                f"--captions names: of {total:,} pictures {self.without:,} have no name that is a "
                f"caption ({shown}), and {self._repeating:,} names only repeat their folder's, "
                f"which would do for {self._other:,} pictures: use --captions folder.",
                f"--captions names：{total:,} 张图片中 {self.without:,} 张的文件名不是描述"
                f"({shown})，{self._repeating:,} 个文件名只是重复目录名，而目录名可用于 "
                f"{self._other:,} 张图片：请用 --captions folder。",
            )
        advice, advice_zh = self._advice(total)
        if self._folders:
            raise InputError(
                f"--captions folder: only {self.captioned:,} of {total:,} pictures lie in a folder "
                f"whose name is a caption; the others are like {shown}. {advice}",
                f"--captions folder：{total:,} 张图片中只有 {self.captioned:,} 张所在的目录名可作为"
                f"描述，其余如 {shown}。{advice_zh}",
            )
        raise InputError(
            f"--captions names: only {self.captioned:,} of {total:,} file names are captions; the "
            f"others are like {shown}. {advice}",
            f"--captions names：{total:,} 个文件名中只有 {self.captioned:,} 个可作为描述，其余如 "
            f"{shown}。{advice_zh}",
        )

    def _advice(self, total: int) -> tuple[str, str]:
        """What to do instead."""
        en = (
            "give a file of captions (--captions captions.csv), or make the pictures searchable "
            "without training: --captions none --no-train --model MODEL."
        )
        zh = (
            "给出描述文件(--captions captions.csv)，或不训练只检索："
            "--captions none --no-train --model 模型。"
        )
        if 2 * self._other < total:
            return en[0].upper() + en[1:], f"请{zh}"
        if self._folders:
            best = f"The file names would do for {self._other:,}: use --captions names. Or "
            best_zh = f"文件名可用于 {self._other:,} 张：请用 --captions names。或者"
        else:
            best = f"The folder names would do for {self._other:,}: use --captions folder. Or "
            best_zh = f"目录名可用于 {self._other:,} 张：请用 --captions folder。或者"
        return best + en, best_zh + zh


def of_names(paths: Paths, *, folders: bool = False) -> NameCaptions:
    """Captions from the names of files, or of the folders that they lie in.

    Args:
        paths: gives all paths of the collection, each time that it is called.
    """
    return NameCaptions(paths, folders=folders)


class _Spread:
    """A few of all that come by, from all over the collection, and always the same."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: list[tuple[int, str, str]] = []  # a heap: the largest hash goes first

    def add(self, path: str, text: str) -> None:
        """Look at one more."""
        digest = hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        item = (-int.from_bytes(digest, "big"), path, text)
        if len(self._kept) < self._count:
            heapq.heappush(self._kept, item)
        elif item > self._kept[0]:
            heapq.heapreplace(self._kept, item)

    def items(self) -> list[tuple[str, str]]:
        """(path, text) of those that were kept, by path."""
        return sorted((path, text) for _, path, text in self._kept)
