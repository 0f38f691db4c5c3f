"""Where a page ended, as a text that the next page is asked for with.

The order is by score, equal ones by id. A score may come out a millionth higher or lower on the
next request, when the text was embedded beside others, so a page is not simply what lies behind
the last key: the ids that lie closer to it than that are named, and are not shown again.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wentu.errors import InputError
from wentu.search.query import DEEPEST, OtherModelError

BAND = 1e-5
"""Scores closer than this may change places between two requests; measured: 2e-6."""
MOST = 64
"""Ids that are named: a text of at most 750 characters. Where more lie so close (pictures that are
equal to the model) the strict order decides."""
_HEAD = struct.Struct(">8sdI?")

Scores = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a page ended."""

    model: str
    """The first 16 digits of the digest of the model whose scores these are."""
    score: float
    """Of the last picture."""
    rank: int
    """Pictures up to it."""
    answered: bool
    """Was the text answered, or were the nearest shown although nothing fits?"""
    ids: tuple[int, ...]
    """The last pictures whose score is within ``BAND`` of it, the last one at the end."""

    def text(self) -> str:
        """For the answer."""
        head = _HEAD.pack(bytes.fromhex(self.model), self.score, self.rank, self.answered)
        data = head + struct.pack(f">{len(self.ids)}q", *self.ids)
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    def behind(self, scores: Scores, ids: Ids) -> npt.NDArray[np.bool_]:
        """[N] which of these come after it."""
        near = np.abs(scores - self.score) <= BAND
        if len(self.ids) >= MOST:
            last = self.ids[-1]
            near &= (scores < self.score) | ((scores == self.score) & (ids > last))
        named = np.isin(ids, np.array(self.ids, np.int64))
        result: npt.NDArray[np.bool_] = ((scores < self.score - BAND) | near) & ~named
        return result


def end_of(
    model: str, rank: int, scores: Scores, ids: Ids, before: Place | None, answered: bool
) -> Place:
    """The place behind a page: scores and ids of its pictures, shown or not.

    Args:
        rank: pictures up to its end. before: where the page began. answered: see ``Place``.
    """
    last = float(scores[-1])
    close = np.abs(scores - last) <= BAND
    named = [*before.ids] if before and abs(before.score - last) <= BAND else []
    named += ids[close].tolist()
    return Place(
        model=model[:16],
        score=last,
        rank=rank,
        answered=answered,
        ids=tuple(named[-MOST:]),
    )


def read_place(text: str, model: str) -> Place:
    """The place that a text names.

    Raises InputError where it names none, OtherModelError where another model's scores are meant.
    """
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        digest, score, rank, answered = _HEAD.unpack_from(data)
        count = (len(data) - _HEAD.size) // 8
        ids = struct.unpack_from(f">{count}q", data, _HEAD.size)
        whole = len(data) == _HEAD.size + 8 * count and 1 <= count <= MOST
        if not whole or not math.isfinite(score) or min(ids) < 0 or rank > DEEPEST:
            raise ValueError("no place")
    except (binascii.Error, struct.error, ValueError):
        raise InputError(
            "after: give what the page before ended with, as it was answered.",
            "after：请原样给出上一页返回的值。",
        ) from None
    if digest.hex() != model[:16]:
        raise OtherModelError(
            "the model changed meanwhile; search again.", "模型已更换；请重新搜索。"
        )
    return Place(model=digest.hex(), score=score, rank=rank, answered=answered, ids=ids)


@dataclass(frozen=True, kw_only=True)
class Rest:
    """What may still be shown."""

    drop: Ids
    """Pictures that are not to be: the query itself, copies of others."""
    before: Place | None = None
    """Where the page before ended."""

    @property
    def passed(self) -> int:
        """How many pictures the pages before had."""
        return self.before.rank if self.before else 0

    @property
    def at_most(self) -> int:
        """How many of the best can be among those that are not shown, whatever ``before`` says."""
        return self.passed + len(self.drop) + (MOST if self.before else 0)

    def left(self, scores: Scores, ids: Ids) -> npt.NDArray[np.bool_]:
        """[N] which of these."""
        result = np.isin(ids, self.drop, invert=True)
        return result & self.before.behind(scores, ids) if self.before else result


def best(scores: Scores, ids: Ids, need: int) -> tuple[Scores, Ids]:
    """The ``need`` best of [N], best first; equal scores by id."""
    if len(scores) > need:  # sorting a million takes 20 times as long
        last = np.partition(scores, len(scores) - need)[len(scores) - need]
        near = scores >= last
        scores, ids = scores[near], ids[near]
    order = np.lexsort((ids, -scores))[:need]
    return scores[order], ids[order]
