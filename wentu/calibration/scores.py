"""What tells pictures that fit from those that are merely the nearest, and the limits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wentu.formats import read_json, write_json

Vectors = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
LOOKED_AT = 5
"""Of the nearest pictures, how many decide whether a text is answered: the best fit of them."""
BESIDE = 3
"""How many of the captions that a picture likes best a text is compared with; 1 to 8 were tried."""
AROUND = 64
"""How many captions around a text it is put together from; 24 to 96 were tried."""
RIDGE = 0.001
"""Added to their products, so that near copies among them do not cancel each other."""
CONFIDENT = 0.95
"""The confidence of a picture that fits as the middle one of the held-out captions does."""
THRESHOLD = 0.5
"""The confidence at the limit, by how it is defined."""
_UNITS = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|[^\W\u3400-\u9fff\uf900-\ufaff]+")


def units_of(text: str) -> list[str]:
    """Chinese characters, and words of other letters in lower case."""
    return [found.lower() for found in _UNITS.findall(text)]


def spans(text: str) -> list[tuple[int, int]]:
    """Where its units are."""
    return [found.span() for found in _UNITS.finditer(text)]


def evidence(texts: Vectors, pictures: Vectors, known: Vectors) -> tuple[Doubles, Doubles]:
    """(fit [Q, K], familiar [Q]) of texts [Q, D] and the K pictures beside each [Q, K, D].

    Args:
        known: [M, D] the captions, or background texts, that pictures are compared by.
        All vectors have length 1. See the top of the package.
    """
    scores = np.einsum("qd,qkd->qk", texts, pictures)
    flat = pictures.reshape(-1, pictures.shape[-1])
    liked = [_best(flat[row : row + 1024] @ known.T) for row in range(0, len(flat), 1024)]
    best = np.concatenate([np.empty(0, np.float32), *liked])
    fit = scores - best.reshape(scores.shape)
    return fit.astype(np.float64), -unexplained(texts, known)


def unexplained(texts: Vectors, known: Vectors) -> Doubles:
    """[Q] how much of a text [Q, D] the captions around it cannot be put together to.

    The length of what is left of it after a ridge regression on the ``AROUND`` nearest of ``known``
    [M, D], or half of them where there are few: the reconstruction error of locally linear
    embedding (Roweis and Saul, "Nonlinear dimensionality reduction by locally linear embedding",
    2000). What says known things together as captions do lies between captions, near to none.
    """
    around = min(AROUND, (len(known) + 1) // 2)
    likeness = texts @ known.T
    nearest = np.argpartition(-likeness, around - 1, axis=1)[:, :around]
    left = np.empty(len(texts))
    for row, (text, which) in enumerate(zip(texts.astype(np.float64), nearest, strict=True)):
        captions = known[which].astype(np.float64)
        products = captions @ captions.T + RIDGE * np.eye(around)
        left[row] = np.linalg.norm(text - np.linalg.solve(products, captions @ text) @ captions)
    return left


def _best(scores: Vectors) -> Vectors:
    """[N] mean of the ``BESIDE`` highest of [N, M]."""
    beside = min(BESIDE, scores.shape[1])
    found: Vectors = np.partition(scores, -beside, axis=1)[:, -beside:].mean(axis=1)
    return found


@dataclass(frozen=True, kw_only=True)
class Known:
    """What pictures are compared by; a folder in calibrations/."""

    vectors: Vectors
    """[M, D] of captions, or of background texts."""
    units: frozenset[str] = frozenset()
    """Characters and words of the captions, where the model learned from these alone; else none."""

    def save(self, folder: Path) -> None:
        """Write it into an empty folder."""
        np.save(folder / "known.npy", self.vectors)
        write_json(folder / "units.json", sorted(self.units))

    @classmethod
    def load(cls, folder: Path) -> Known:
        """What ``save`` wrote."""
        units = frozenset(read_json(folder / "units.json"))
        return cls(vectors=np.load(folder / "known.npy"), units=units)

    def read(self, text: str) -> float:
        """Share of a text's units that the model may know; 1 where nothing speaks against it."""
        units = units_of(text)
        if not self.units or not units:
            return 1.0
        return sum(unit in self.units for unit in units) / len(units)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How a statistic spreads over the queries that are known to be right."""

    mean: float
    deviation: float

    def of(self, values: Doubles) -> Doubles:
        """In deviations from the mean."""
        return (values - self.mean) / self.deviation


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What texts up to a length are held to."""

    units: int
    """Up to so many characters (words, where they are not Chinese); 0: any."""
    query: float
    """The best picture has to score so much, or the text is answered with nothing."""
    picture: float
    """Where it does, every picture that scores so much is shown."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """How well pictures fit a text."""

    fits: npt.NDArray[np.bool_]
    """[K]"""
    confidence: Doubles
    """[K] 0..1, at least ``THRESHOLD`` where it fits."""
    answered: bool
    """Is there anything for the text? Where not, none fits."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The limits of a release, and how they came about; plain JSON in the release."""

    known: str
    """Digest of the folder in calibrations/ that holds a ``Known``."""
    gallery: int
    """Pictures that it was measured over."""
    basis: str
    """captions: held-out ones; background: there were too few, so by texts of nothing alone."""
    fit: Scale
    familiar: Scale | None
    """Of the nearness to the nearest known caption; None: not used (basis background)."""
    least_read: float
    """Share of a text's units that ``Known.units`` has to hold."""
    limits: tuple[Limit, ...]
    """By length, the last for any."""
    slope: float
    """Of the confidence, per deviation."""
    queries: int
    """Held-out captions measured with."""
    background: int
    """Background texts measured with."""
    lost: float | None
    """Share of the held-out captions that are answered with nothing; None without any."""
    hidden: float | None
    """Share of them whose own picture is not shown."""
    false_accepts: float
    """Share of the background texts that are answered."""
    left_out: float | None
    """Share of the held-out captions that are answered where their pictures are taken away: a hard
    case, since what is left may differ in one word."""
    curve: tuple[Mapping[str, float], ...] = ()
    """limit -> lost, false_accepts, left_out, over the whole range."""

    def score(self, fit: Doubles, familiar: Doubles) -> Doubles:
        """[Q, K] what is held to the limits, of fit [Q, K] and familiar [Q]."""
        result = self.fit.of(fit)
        return result + self.familiar.of(familiar)[:, None] if self.familiar else result

    def limit(self, text: str) -> Limit:
        """That of a text of its length."""
        units = len(spans(text))
        return next(limit for limit in self.limits if not limit.units or units <= limit.units)

    def answers(self, text: str, best: float, known: Known) -> bool:
        """Is a text answered whose best picture scores so?"""
        return best >= self.limit(text).query and known.read(text) >= self.least_read

    def judge(self, text: str, scores: Doubles, answered: bool) -> Judged:
        """Which of a page's pictures fit; none where the text is not answered.

        Args:
            scores: [K] of the pictures.
        """
        limit, refused = self.limit(text), not answered
        least = max(limit.query, limit.picture) if refused else limit.picture
        far = np.clip(self.slope * (scores - least), -50, 50)
        fits = np.zeros(len(scores), bool) if refused else scores >= least
        confidence = 1 / (1 + np.exp(-far))
        confidence = np.where(fits, confidence, np.minimum(confidence, 0.5))
        return Judged(fits=fits, confidence=confidence, answered=answered)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def from_plain(value: Mapping[str, Any]) -> Calibration | None:
    """What ``plain`` gave; None of nothing."""
    if not value:
        return None
    given = dict(value)
    scale = given["familiar"]
    given |= {
        "fit": Scale(**given["fit"]),
        "familiar": Scale(**scale) if scale else None,
        "limits": tuple(Limit(**each) for each in given["limits"]),
        "curve": tuple(given["curve"]),
    }
    return Calibration(**given)


def share(values: Doubles | Sequence[float], limits: Doubles) -> Doubles:
    """[L] share of ``values`` that are at least as high as each limit; they need not be sorted."""
    ordered = np.sort(np.asarray(values, np.float64))
    return 1 - np.searchsorted(ordered, limits, side="left") / max(1, len(ordered))
