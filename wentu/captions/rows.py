"""What every layout of captions shares: a row, the words of its fields, and clean text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from wentu.captions.words import (
    CAPTION_FIELDS,
    ID_FIELDS,
    PICTURE_FIELDS,
    SPLIT_FIELDS,
    SPLIT_WORDS,
    word,
)
from wentu.errors import FormatError, InputError
from wentu.language import pick

EXTENSION = (
    r"\.(?:p?jpe?g|jpe|pjp|jfif|a?png|webp|gif|bmp|dib|tiff?|mpo|hei[cf]s?|hif|avifs?|jp2|j2[kc]"
    r"|jp[cfx]|p[pgbn]m|pfm)(?:![\w.-]+)?"
)
"""How the name of a picture ends; ``!large`` is what networks put behind."""
_PICTURE = re.compile(rf"\S.*{EXTENSION}", re.IGNORECASE | re.DOTALL)
_NUMBERED = re.compile(rf"({EXTENSION})#\d+$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the user said about one picture."""

    image: str
    """As written, with forward slashes; empty where ``digest`` says which picture it is."""
    captions: tuple[str, ...]
    split: str | None = None
    """train, valid or test where the user's files say so."""
    where: str = ""
    """File and position, for messages."""
    digest: bytes | None = None
    """BLAKE2b-256 of the picture's file, where the layout holds the picture itself."""
    own_id: str = ""
    """The user's own id of the picture."""


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Positions of what we know among the names of columns or keys."""

    picture: int | None
    captions: tuple[int, ...]
    split: int | None
    own_id: int | None


@lru_cache(maxsize=1024)
def fields_by_words(names: tuple[str, ...]) -> Fields:
    """What the names of columns (or keys of JSON) say; caption1, caption2, … are all captions.

    Of several words for the same the earliest of the list wins; ``describe`` tells which it was.
    """
    known = [word(name) for name in names]
    bare = [re.sub(r"(?<=\D)[\d一二三四五]+$", "", each) for each in known]

    def first(wanted: tuple[str, ...], among: list[str]) -> int | None:
        found = [(wanted.index(each), at) for at, each in enumerate(among) if each in wanted]
        return min(found)[1] if found else None

    caption = first(CAPTION_FIELDS, bare)
    return Fields(
        picture=first(PICTURE_FIELDS, known),
        captions=tuple(
            at for at, each in enumerate(bare) if caption is not None and each == bare[caption]
        ),
        split=first(SPLIT_FIELDS, known),
        own_id=first(ID_FIELDS, known),
    )


def is_picture(text: str) -> bool:
    """Does this read like the name of a picture's file?"""
    return bool(_PICTURE.fullmatch(clean_image(text)))


def clean_image(text: str) -> str:
    """A picture as written, with forward slashes; Flickr's ``x.jpg#0`` without its number."""
    return _NUMBERED.sub(r"\1", whole(text).strip().replace("\\", "/"))


def clean_texts(texts: Iterable[object]) -> tuple[str, ...]:
    """Trimmed captions; empty ones, and what is no text, are dropped."""
    trimmed = (whole(text).strip() for text in texts if isinstance(text, str))
    return tuple(text for text in trimmed if text)


def whole(text: str) -> str:
    """Half an emoji (a lone surrogate, legal in JSON) is in no vocabulary and no file of ours."""
    return text.encode("utf-8", "replace").decode()


def split_of(path: Path) -> str | None:
    """The split that a file's name states: ``cn_val.json`` is valid."""
    words = re.split(r"[^a-z\u4e00-\u9fff]+", path.stem.lower())
    named = [SPLIT_WORDS[each] for each in words if each in SPLIT_WORDS]
    return named[-1] if named else None


def split_word(text: str, where: str) -> str | None:
    """The split that a cell names; None where it is empty, FormatError where it is no split."""
    if not text.strip():
        return None
    split = SPLIT_WORDS.get(word(text))
    if split is None:
        raise FormatError(
            f"{where}: {text.strip()[:40]!r} is no split; write train, valid or test, or give that "
            "column another name.",
            f"{where}：{text.strip()[:40]!r} 不是划分；请写 train、valid 或 test，或给该列改名。",
        )
    return split


def position(path: Path, kind: str, number: int) -> str:
    """Where something stands, for messages; kind: line, entry or row."""
    unit = {"line": "行", "entry": "条", "row": "行"}[kind]
    return pick(f"{path.name}, {kind} {number}", f"{path.name} 第 {number} {unit}")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what the system says of an unreadable file into a sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"{path} cannot be read: {reason}.", f"{path} 无法读取：{reason}。"
        ) from None
