"""What is searched for, and what is found."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wentu.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

DEEPEST = 10_000
"""Pictures that a query may be followed down to: memory for a page grows with it."""
_DAY = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")


class NotHereError(InputError):
    """The release has no such picture (any more)."""


class OtherModelError(InputError):
    """A page was asked for behind one that another model gave."""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One picture that was found, or is looked at."""

    id: int
    score: float
    """Cosine with the query, -1..1."""
    paths: tuple[str, ...]
    """Relative to the collection; several where equal files lie in several places."""
    captions: tuple[str, ...]
    own_id: str = ""
    """The user's own id of the picture, where the captions gave one."""
    width: int = 0
    height: int = 0
    """Pixels of the original, upright."""
    bytes: int = 0
    """Size of the original file."""
    taken: str | None = None
    """When, in ISO 8601 without a zone, as the camera says; None where the file tells nothing."""
    added: str | None = None
    """When it came into the collection, UTC; None in releases that did not record it."""
    confidence: float | None = None
    """0..1: how likely a picture of that score fits the text; None without calibration."""
    similar: tuple[int, ...] = ()
    """Nearly the same pictures that this one stands for."""


@dataclass(frozen=True, kw_only=True)
class CaptionHit:
    """One caption that was found for a picture."""

    text: str
    score: float
    """Cosine of the caption with the picture, -1..1."""
    path: str
    """A picture that the caption stands on."""


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which pictures are compared; a picture has to pass all of them."""

    folder: str = ""
    """Below this folder of the collection."""
    name: str = ""
    """In the file's name, whatever the case; with * or ? the whole name has to fit it."""
    taken_from: str = ""
    taken_to: str = ""
    added_from: str = ""
    added_to: str = ""
    """2024, 2024-05 or 2024-05-31, the last day included. Pictures without a date do not pass."""
    captioned: bool | None = None
    """Only those with a caption, or only those without."""
    min_side: int = 0
    """Pixels that both sides have at least."""
    max_side: int = 0
    """Pixels that both sides have at most; 0: any."""

    def __post_init__(self) -> None:
        for name in ("taken_from", "taken_to", "added_from", "added_to"):
            given = getattr(self, name)
            if given and not _DAY.fullmatch(given):
                raise InputError(
                    f"{name} {given[:40]}: give a day as 2024-05-31, or 2024-05, or 2024.",
                    f"{name} {given[:40]}：请写作 2024-05-31、2024-05 或 2024。",
                )


@dataclass(frozen=True, kw_only=True)
class Query:
    """A mix: what is to be like, each with its weight, minus what is not to be like.

    The query is the sum of the vectors of text, picture and id, each times its weight, minus the
    mean of those of the negatives times theirs; then it is brought to length 1.
    """

    text: str = ""
    picture: bytes | Image | None = None
    id: int | None = None
    """A picture of the collection; it is not found itself."""
    negative: tuple[str, ...] = ()
    """Texts."""
    text_weight: float = 1.0
    picture_weight: float = 1.0
    id_weight: float = 1.0
    negative_weight: float = 0.5
    filters: Filters = field(default_factory=Filters)
    raw: bool = False
    """The text is embedded as it stands; else see ``wentu.search.syntax``."""
    fold: bool = True
    """Of nearly the same pictures one is shown."""
    all: bool = False
    """Also what lies below the threshold."""
    k: int = 10
    offset: int = 0
    """How many of the best to pass over."""
    after: str = ""
    """What the page before ended with (``Answer.after``)."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"-k {self.k}: give 1 or more.", f"-k {self.k}：至少为 1。")
        if self.offset < 0:
            raise InputError(
                f"offset {self.offset}: give 0 or more.", f"offset {self.offset}：至少为 0。"
            )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A page of what was found."""

    hits: list[Hit]
    total: int
    """Pictures that were compared: all that count, or all that pass the filters."""
    offset: int = 0
    """How many pictures come before these."""
    threshold: float | None = None
    """The confidence below which a picture is not shown; None: all are."""
    withheld: int = 0
    """Hits of this page that are not shown because they lie below it."""
    after: str | None = None
    """For the next page; None: there is none."""
    text: str = ""
    negative: tuple[str, ...] = ()
    """What was understood of the text."""
