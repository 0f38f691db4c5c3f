"""Batches from a Chinese-CLIP LMDB: a seeded order per epoch, decoded ahead by threads.

Threads, not processes: Pillow and LMDB release the interpreter's lock, nothing is copied between
processes, and nothing is left over when a run is killed. Pictures that together fit
``CACHE_BYTES`` at the model's resolution are decoded once; on the demo that is worth 1.3x.

Where a batch stands in its epoch is all there is to resume: order and augmentation depend only on
(seed, epoch, row), never on what was drawn before, nor on how many processes share a batch.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from wentu import pictures
from wentu.ann.turns import cores
from wentu.clip.processor import Processor
from wentu.formats import PairsLmdb
from wentu.training.config import Config
from wentu.training.parallel import Group
from wentu.training.sampling import order

CACHE_BYTES = 512 * 2**20
PREFETCH = 4
"""Batches being made ahead of the one in use."""

Ints = npt.NDArray[np.int64]
Cells = tuple[Ints, Ints]
"""Rows and columns of the true cells of a matrix [n, B]."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a model is fed, for n pairs."""

    pictures: npt.NDArray[np.uint8]
    """[n, R, R, 3]"""
    tokens: Ints
    """[n, L], L the longest caption among them"""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A step's B pairs: all of their ids, and the inputs of one process's share."""

    image_ids: Ints
    """[B]"""
    text_ids: Ints
    """[B]"""
    own: slice
    """The n rows that are this process's."""
    belongs: tuple[Cells, Cells]
    """Where own pictures (rows) and all captions (columns) belong together, and own captions and
    all pictures."""
    inputs: list[Inputs]
    """For each model that is fed: the one that learns, then its teacher."""


class PairBatches:
    """The training split, an epoch at a time."""

    def __init__(
        self,
        folder: Path,
        *,
        processors: Sequence[Processor],
        batch_size: int,
        seed: int,
        augment: str = "none",
        flip: bool = False,
        sampler: str = "apart",
        group: Group | None = None,
    ) -> None:
        self._lmdb = PairsLmdb(folder)
        self.image_ids, self.text_ids = ids_of(self._lmdb)
        self._captions = Partners(self.image_ids, self.text_ids)
        self._depicted = Partners(self.text_ids, self.image_ids)
        self._processors = list(processors)
        self._size, self._seed, self._sampler = batch_size, seed, sampler
        self._augment, self._flip = augment, flip
        self._group = group or Group()
        self._cache: dict[int, list[npt.NDArray[np.uint8]]] = {}
        self._room = room([each.resolution for each in self._processors])

    @classmethod
    def of(
        cls,
        folder: Path,
        config: Config,
        processors: Sequence[Processor],
        group: Group | None = None,
    ) -> PairBatches:
        """The batches that ``config`` asks for."""
        return cls(
            folder,
            processors=processors,
            batch_size=config.batch_size,
            seed=config.seed,
            augment=config.augment,
            flip=config.flip,
            sampler=config.sampler,
            group=group,
        )

    def __len__(self) -> int:
        """Pairs."""
        return len(self.image_ids)

    @property
    def steps(self) -> int:
        """Batches in an epoch; the last one may be smaller."""
        return -(-len(self) // self._size)

    def epoch(self, epoch: int, first: int = 0) -> Generator[Batch, None, None]:
        """The batches of an epoch from number ``first`` on."""
        rows = order(
            self.image_ids,
            self.text_ids,
            size=self._size,
            key=[self._seed, epoch],
            sampler=self._sampler,
        )
        size, workers = self._size, threads()
        slices = [rows[start : start + size] for start in range(first * size, len(rows), size)]
        with ThreadPoolExecutor(workers) as pool, ThreadPoolExecutor(1) as maker:
            waiting: deque[Future[Batch]] = deque()
            for part in slices:
                waiting.append(maker.submit(self._batch, part, epoch, pool))
                if len(waiting) > PREFETCH:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _batch(self, rows: Ints, epoch: int, pool: ThreadPoolExecutor) -> Batch:
        own = self._group.share(len(rows))
        mine = rows[own].tolist()
        texts = [self._lmdb.pair(row)[2] for row in mine]
        arrays = list(pool.map(lambda row: self._pictures(row, epoch), mine))
        image_ids, text_ids = self.image_ids[rows], self.text_ids[rows]
        return Batch(
            image_ids=image_ids,
            text_ids=text_ids,
            own=own,
            belongs=(
                self._captions.among(image_ids[own], text_ids),
                self._depicted.among(text_ids[own], image_ids),
            ),
            inputs=[
                Inputs(
                    pictures=np.stack([each[number] for each in arrays])
                    if arrays
                    else np.empty((0, processor.resolution, processor.resolution, 3), np.uint8),
                    tokens=processor.tokens(texts) if texts else np.empty((0, 2), np.int64),
                )
                for number, processor in enumerate(self._processors)
            ],
        )

    def _pictures(self, row: int, epoch: int) -> list[npt.NDArray[np.uint8]]:
        """A pair's picture as each model wants it."""
        image_id = int(self.image_ids[row])
        if image_id in self._cache:
            return self._cache[image_id]
        picture = pictures.decode(self._lmdb.picture(image_id))
        if self._augment != "none" or self._flip:
            return [self._changed(picture, row, epoch, each) for each in self._processors]
        arrays = [each.pixels(picture) for each in self._processors]
        if len(self._cache) < self._room:
            self._cache[image_id] = arrays
        return arrays

    def _changed(
        self, picture: Image.Image, row: int, epoch: int, processor: Processor
    ) -> npt.NDArray[np.uint8]:
        """One augmented view, the same for every model."""
        rng = np.random.default_rng([self._seed, epoch, row])
        if self._flip and rng.random() < 0.5:
            picture = ImageOps.mirror(picture)
        if self._augment == "view":
            return processor.pixels(pictures.view(picture, int(rng.integers(2**63))))
        if self._augment == "crop":
            return processor.preprocessing.augment(picture, rng)
        return processor.pixels(picture)

    def close(self) -> None:
        """Close the LMDB."""
        self._lmdb.close()


class Partners:
    """What each id of one kind belongs to, of the other kind: 16 bytes a pair."""

    def __init__(self, ids: Ints, partners: Ints) -> None:
        order = np.argsort(ids, kind="stable")
        self._ids, self._partners = ids[order], partners[order]

    def among(self, ids: Ints, others: Ints) -> Cells:
        """The cells of a matrix, ``ids`` [n] by ``others`` [B], that belong together."""
        first = np.searchsorted(self._ids, ids, side="left")
        count = np.searchsorted(self._ids, ids, side="right") - first
        rows = np.repeat(np.arange(len(ids)), count)
        inside = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
        wanted = self._partners[np.repeat(first, count) + inside]
        order = np.argsort(others, kind="stable")
        found = others[order]
        start = np.searchsorted(found, wanted, side="left")
        times = np.searchsorted(found, wanted, side="right") - start
        within = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
        return np.repeat(rows, times), order[np.repeat(start, times) + within]


def ids_of(lmdb: PairsLmdb) -> tuple[Ints, Ints]:
    """(pictures, captions) of all pairs, [N] each: 16 bytes a pair, the texts stay on disk."""
    found = np.empty((2, len(lmdb)), np.int64)
    for index in range(len(lmdb)):
        found[:, index] = lmdb.pair(index)[:2]
    return found[0], found[1]


def room(resolutions: Sequence[int]) -> int:
    """Pictures that are kept decoded, for models of these resolutions."""
    return CACHE_BYTES // sum(3 * each**2 for each in resolutions)


def threads() -> int:
    """Threads that decode: the machine's cores, shared among its processes of a training."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, cores() // here)
