"""New files -> pictures in the state, thumbnails in the store, vectors in memory.

Each file is read once. What is damaged is remembered by its bytes, so that it is neither tried at
every look nor under every name. A few files at a time, by number and by size: the machine may be a
small one. The vectors are in no file until a segment is written; who is killed before reads again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wentu import pictures
from wentu.clip.bundle import Bundle
from wentu.formats import bytes_digest
from wentu.library.scan import reachable
from wentu.library.state import DAMAGED, PICTURE, UNREADABLE, State
from wentu.store import Store

BATCH, BATCH_BYTES = 32, 64_000_000
"""Files that are decoded at once, while the next so many are read."""
AHEAD = 8
"""Batches that are taken from the state at once."""
THREADS = min(4, os.cpu_count() or 1)
"""Each may hold a decoded picture of 50 million pixels: 150 MB."""

Vector = npt.NDArray[np.float32]
File = tuple[str, str]
"""A path and its mark."""
Tell = Callable[[str, str], object]
"""Is told (path, what is wrong with it)."""


@dataclass(kw_only=True)
class Prepared:
    """A picture that was decoded."""

    size: int
    shape: tuple[int, int]
    """Width and height, upright."""
    print: pictures.Fingerprint
    pixels: npt.NDArray[np.uint8]
    thumbnail: bytes
    taken: str | None
    """When, as ``pictures.taken`` says it."""


class Reader:
    """Reads what waits; keeps the model open while there is something to read."""

    def __init__(self, state: State, store: Store, root: str, model: str) -> None:
        self._state, self._store, self._root = state, store, root
        self._model = store.model(model)
        self._bundle: Bundle | None = None

    def rest(self) -> None:
        """Let go of the model: it takes most of the memory, and nothing waits."""
        self._bundle = None

    def read(self, go_on: Callable[[int], bool], tell: Tell) -> dict[int, Vector]:
        """Read waiting files as long as ``go_on``, asked with how many were read, says so.

        Returns the vectors [D] of the pictures that are new, by id. Where the folder goes out of
        reach meanwhile, what could not be read goes on waiting.
        """
        vectors: dict[int, Vector] = {}
        done = 0
        with ThreadPoolExecutor(THREADS) as pool:
            while batches := list(portions(self._state.waiting(AHEAD * BATCH))):
                ahead = pool.map(self._bytes, batches[0])
                for files, following in zip(batches, [*batches[1:], []], strict=True):
                    data, ahead = list(ahead), pool.map(self._bytes, following)
                    lost = any(isinstance(each, OSError) for each in data)
                    if lost and not reachable(self._root):
                        return vectors
                    with self._state.trying([path for path, _ in files]):
                        vectors |= self._batch(files, data, pool, tell)
                    done += len(files)
                    if not go_on(done):
                        return vectors
        return vectors

    def _bytes(self, file: File) -> bytes | OSError:
        try:
            return Path(self._root, file[0]).read_bytes()
        except OSError as error:
            return error

    def _batch(
        self,
        files: list[File],
        data: list[bytes | OSError],
        pool: ThreadPoolExecutor,
        tell: Tell,
    ) -> dict[int, Vector]:
        """Bring some files into the state; the vectors of those that are new pictures."""
        digests = [bytes_digest(each) if isinstance(each, bytes) else b"" for each in data]
        fresh = {
            digest: each
            for digest, each in zip(digests, data, strict=True)
            if isinstance(each, bytes)
            and self._state.known(digest) is None
            and not self._state.is_damaged(digest)
        }
        outcomes = dict(zip(fresh, pool.map(self._prepare, fresh.values()), strict=True))
        good = {d: each for d, each in outcomes.items() if isinstance(each, Prepared)}
        embedded = self._embed([each.pixels for each in good.values()])
        with self._state.transaction() as db:
            ids = {
                digest: self._state.add_picture(
                    digest, each.size, each.shape, each.print, each.taken
                )
                for digest, each in good.items()
            }
            for digest, outcome in outcomes.items():
                if isinstance(outcome, str):
                    db.execute("INSERT OR REPLACE INTO damaged VALUES (?, ?)", (digest, outcome))
            for (path, mark), digest, each in zip(files, digests, data, strict=True):
                self._settle(path, mark, digest, each, tell)
        thumbnails = [good[digest].thumbnail for digest in ids]
        list(pool.map(self._keep_thumbnail, ids.values(), thumbnails))
        return dict(zip(ids.values(), embedded, strict=True))

    def _keep_thumbnail(self, picture: int, thumbnail: bytes) -> None:
        key = self._store.thumbnail_key(picture)
        if not self._store.storage.exists(key):
            self._store.storage.write(key, thumbnail)

    def _settle(
        self, path: str, mark: str, digest: bytes, data: bytes | OSError, tell: Tell
    ) -> None:
        """Note what came of one file."""
        if isinstance(data, OSError):
            self._state.settle_file(path, mark, UNREADABLE)
            tell(path, data.strerror or str(data))
            return
        picture = self._state.known(digest)
        if picture is not None:
            self._state.settle_file(path, mark, PICTURE, picture)
            return
        self._state.settle_file(path, mark, DAMAGED)
        (reason,) = self._state.db.execute(
            "SELECT reason FROM damaged WHERE digest = ?", (digest,)
        ).fetchone()
        tell(path, reason)

    def _prepare(self, data: bytes) -> Prepared | str:
        """A decoded picture, or what is wrong with it."""
        try:
            image = pictures.decode(data)
            return Prepared(
                size=len(data),
                shape=image.size,
                print=pictures.fingerprint(image),
                pixels=self._opened().processor.pixels(image),
                thumbnail=pictures.thumbnail(image),
                taken=pictures.taken(data),
            )
        except pictures.PictureError as error:
            return str(error)

    def _opened(self) -> Bundle:
        if self._bundle is None:
            self._bundle = Bundle(self._model)
        return self._bundle

    def _embed(self, pixels: list[npt.NDArray[np.uint8]]) -> Iterator[Vector]:
        return iter(self._opened().encode_arrays(np.stack(pixels)) if pixels else ())


def portions(files: Iterable[tuple[str, str, int]]) -> Iterator[list[File]]:
    """Batches of (path, mark) of (path, mark, bytes), small in number and in bytes."""
    batch: list[File] = []
    total = 0
    for path, mark, size in files:
        if batch and (len(batch) == BATCH or total + size > BATCH_BYTES):
            yield batch
            batch, total = [], 0
        batch.append((path, mark))
        total += size
    if batch:
        yield batch
