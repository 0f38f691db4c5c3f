"""Recall on a whole split, computed by all processes of a training together."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wentu import retrieval
from wentu.formats import PairsLmdb, batched
from wentu.training.parallel import Group

Features = npt.NDArray[np.float32]
PICTURES, TEXTS = 64, 256
"""Encoded at once."""


class Validation:
    """A split, kept open, as a retrieval task."""

    def __init__(self, folder: Path, group: Group | None = None) -> None:
        self._lmdb, self._group = PairsLmdb(folder), group or Group()
        self.task = retrieval.Task.of(self._lmdb.pairs())

    def score(
        self,
        encode_pictures: Callable[[list[bytes]], Features],
        encode_texts: Callable[[list[str]], Features],
    ) -> dict[str, float]:
        """Recall both ways (see ``retrieval.summarize``), the same numbers in every process.

        Args:
            encode_pictures, encode_texts: files' bytes or texts -> L2-normalised [n, D].
        """
        ids, texts = self.task.image_ids, self.task.texts
        own = ids[self._group.share(len(ids))]
        parts = [
            encode_pictures([self._lmdb.picture(i) for i in p]) for p in batched(own, PICTURES)
        ]
        image = self._all(parts, len(ids))
        own_texts = texts[self._group.share(len(texts))]
        text = self._all([encode_texts(part) for part in batched(own_texts, TEXTS)], len(texts))
        to_image = retrieval.rank(text, image, self.task.pictures_of_text)
        to_text = retrieval.rank(image, text, self.task.texts_of_picture)
        return retrieval.summarize(to_image, to_text)

    @property
    def chance(self) -> float:
        """The mean recall of a model that knows nothing."""
        ways = (
            (len(self.task.image_ids), self.task.pictures_of_text),
            (len(self.task.texts), self.task.texts_of_picture),
        )
        means = []
        for gallery, right in ways:
            found = [found_by_chance(gallery, len(each), k) for k in retrieval.KS for each in right]
            means.append(np.mean(found))
        return float(np.mean(means))

    def _all(self, parts: list[Features], total: int) -> Features:
        return self._group.gather_array(np.concatenate(parts) if parts else None, total)

    def close(self) -> None:
        """Close the LMDB."""
        self._lmdb.close()


def found_by_chance(gallery: int, right: int, k: int) -> float:
    """Probability that one of ``right`` answers is among ``k`` drawn from ``gallery``.

    >>> found_by_chance(4, 1, 1), found_by_chance(4, 2, 2)
    (0.25, 0.8333333333333334)
    """
    k = min(k, gallery)
    return 1 - math.comb(gallery - right, k) / math.comb(gallery, k)
