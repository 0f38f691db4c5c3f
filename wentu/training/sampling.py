"""In which order pairs are trained on: a function of (seed, epoch), and of nothing else."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
LOOK = 4
"""Waiting pairs that are tried for a batch, as a multiple of its size: bounds the work where most
pairs belong together."""


def order(image_ids: Ints, text_ids: Ints, *, size: int, key: list[int], sampler: str) -> Ints:
    """The rows of an epoch [N] in the order of training; batches are runs of ``size``.

    Args:
        image_ids, text_ids: [N], of each pair.
        key: seed and epoch.
        sampler: ``random``; or ``apart``, where pairs that share a picture or a caption come into
            different batches as long as enough others are left.
    """
    shuffled = np.random.default_rng(key).permutation(len(image_ids))
    if sampler == "random":
        return shuffled
    return _apart(shuffled, image_ids, text_ids, size)


def _apart(shuffled: Ints, image_ids: Ints, text_ids: Ints, size: int) -> Ints:
    found = np.empty_like(shuffled)
    waiting: deque[int] = deque()
    images, texts = image_ids.tolist(), text_ids.tolist()
    following = iter(shuffled.tolist())
    left = len(shuffled)
    for first in range(0, len(shuffled), size):
        batch: list[int] = []
        taken: set[tuple[str, int]] = set()

        def fits(row: int, taken: set[tuple[str, int]] = taken) -> bool:
            marks = ("image", images[row]), ("text", texts[row])
            if marks[0] in taken or marks[1] in taken:
                return False
            taken.update(marks)
            return True

        for _ in range(min(len(waiting), LOOK * size)):
            row = waiting.popleft()
            (batch if len(batch) < size and fits(row) else waiting).append(row)
        while len(batch) < size and left:
            row, left = next(following), left - 1
            (batch if fits(row) else waiting).append(row)
        while len(batch) < size and waiting:  # nothing else is left: together after all
            batch.append(waiting.popleft())
        found[first : first + len(batch)] = batch
    return found
