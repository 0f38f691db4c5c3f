"""What is searched for, and what is found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wentu.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image


class NotHereError(InputError):
    """The release has no such picture (any more)."""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One picture that was found."""

    id: int
    score: float
    """Cosine with the query, -1..1."""
    paths: tuple[str, ...]
    """Relative to the collection; several where equal files lie in several places."""
    captions: tuple[str, ...]
    own_id: str = ""
    """The user's own id of the picture, where the captions gave one."""


@dataclass(frozen=True, kw_only=True)
class CaptionHit:
    """One caption that was found for a picture."""

    text: str
    score: float
    """Cosine of the caption with the picture, -1..1."""
    path: str
    """A picture that the caption stands on."""


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
    folder: str = ""
    """Only pictures below this folder of the collection; empty: all."""
    k: int = 10
    offset: int = 0
    """How many of the best to pass over: the next page."""

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
    """Pictures that were compared: all that count, or all below the folder."""
