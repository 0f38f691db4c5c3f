"""A large gallery for the benchmarks: vectors made from descriptions of real pictures.

No pretrained weights can be had offline, and the towers of a random or a tiny model say little of a
photograph. What does, without training, is the classical description of a picture: its colours and
the directions of its edges, place by place (Dalal and Triggs, "Histograms of oriented gradients",
2005). Of each real picture (../shared/data: Flickr8k, emoji, food; drawn ones where that is absent)
several views are described; a principal component analysis brings them to 512 numbers.

A vector of the gallery (``Maker.pictures``) is a documented perturbation of these: one view, a
share of a second one, as pictures hold several things, and noise of the same spectrum; then it is
moved into a cone, as CLIP's pictures lie. A text-like query (``Maker.texts``) comes from pictures
that the gallery has nothing of, keeps little of them (cosine with its best picture about 0.4), has
much noise of its own, and lies in another cone (the modality gap of Liang et al., "Mind the gap",
2022).
Distances are therefore of a plausible kind, and no more: only real embeddings would be real.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.data import Vectors, draw, unit
from wentu import ann
from wentu.clip.bundle import bundle_digest
from wentu.formats import CATALOG, create_catalog
from wentu.store import Release, SegmentRef, Store

DATA = Path(__file__).parents[2] / "shared" / "data"
SIDE = 64
"""Pixels that a view is described from."""
CELLS, DIRECTIONS = 8, 8
VIEWS = 4
HELD_OUT = 10
"""Of so many pictures one is for text-like queries only."""
BLOCK = 50_000
"""Vectors that are made at once: 100 MB of 512 numbers each."""
SHARED, GAP, CONTENT, OWN = 0.55, 0.3, 0.7, 0.35
"""Of a picture's vector: what all have, the cone of pictures, what it shows, its own noise."""
TEXT_CONTENT, TEXT_OWN = 0.45, 0.6
"""The same of a text-like query."""
WHITENED = 0.25
"""0: the spectrum of the descriptions as it is, 1: all dimensions alike."""
SECOND = 0.7
"""Largest share of a second picture in a picture."""


def real_pictures(data: Path = DATA) -> list[Path]:
    """The photographs and emoji at hand; empty where there are none."""
    places = ("flickr8k-cn/flickr8k-images", "emoji-named", "photo-folder", "flickr8k-originals")
    kinds = {".jpg", ".jpeg", ".png", ".webp"}
    return [
        path
        for place in places
        for path in sorted((data / place).rglob("*"))
        if path.suffix.lower() in kinds
    ]


def views(source: bytes | Path, rng: np.random.Generator) -> Iterator[npt.NDArray[np.float32]]:
    """[SIDE, SIDE, 3] views of a picture: pieces of 60 to 100 % of its sides, every other one
    mirrored."""
    from PIL import Image

    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
        opened.draft("RGB", (4 * SIDE, 4 * SIDE))
        picture = opened.convert("RGB")
    for number in range(VIEWS):
        width, height = (int(side * rng.uniform(0.6, 1)) for side in picture.size)
        left = int(rng.integers(picture.width - width + 1))
        top = int(rng.integers(picture.height - height + 1))
        box = (left, top, left + width, top + height)
        view = picture.resize((SIDE, SIDE), box=box, reducing_gap=2.0)
        pixels = np.asarray(view, np.float32) / np.float32(255)
        yield pixels[:, ::-1] if number % 2 else pixels


def described(seen: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """[N, F] of views [N, SIDE, SIDE, 3]: mean colours and edge directions of 8 x 8 cells."""
    cell = SIDE // CELLS
    grid = (len(seen), CELLS, cell, CELLS, cell)
    grey = seen.mean(axis=3)
    down, right = np.gradient(grey, axis=(1, 2))
    strength, angle = np.hypot(down, right), np.arctan2(down, right) % np.pi
    which = np.minimum((angle / np.pi * DIRECTIONS).astype(int), DIRECTIONS - 1)
    edges = np.stack(
        [np.where(which == each, strength, 0).reshape(grid).sum((2, 4)) for each in range(8)], -1
    )
    edges = np.sqrt(edges / (edges.sum(axis=-1, keepdims=True) + 0.5))
    colours = seen.reshape(*grid, 3).mean((2, 4))
    flat = [part.reshape(len(seen), -1) for part in (edges, colours)]
    return np.concatenate([part / part.std() for part in flat], axis=1).astype(np.float32)


class Maker:
    """Makes vectors of one gallery; seeded, the same every time on the same pictures."""

    def __init__(self, dimension: int = 512, data: Path = DATA) -> None:
        self.dimension, self.files = dimension, real_pictures(data)

    @property
    def source(self) -> str:
        """Of what pictures, in words."""
        if not self.files:
            return "drawn pictures (no ../shared/data here)"
        return f"{len(self.files):,} real pictures, {VIEWS} views of each"

    @cached_property
    def _described(self) -> tuple[Vectors, Vectors]:
        """Of pictures for the gallery, and of those that are held out."""
        rng = np.random.default_rng(0)
        sources: Sequence[bytes | Path] = self.files
        if not sources:
            sources = [draw(number, (128, 96), 8.0, 80) for number in range(1500)]
        seen = (np.stack(list(views(source, rng))) for source in sources)
        features = np.concatenate([described(each) for each in seen])
        features -= features.mean(axis=0)
        _, scale, axes = np.linalg.svd(features, full_matrices=False)
        kept = min(self.dimension, len(axes))
        # A learned embedding uses its dimensions more evenly than raw cells do.
        placed = features @ (axes[:kept] * scale[:kept, None] ** -WHITENED).T
        turned = np.linalg.qr(rng.normal(size=(self.dimension, kept)))[0]
        content = unit(placed @ turned.T)
        held = np.arange(len(content)) // VIEWS % HELD_OUT == 0
        return content[~held], content[held]

    @cached_property
    def _noise(self) -> Vectors:
        """[D, D] that gives noise the spectrum of the descriptions, and length about 1."""
        spread = np.cov(self._described[0].T)
        values, axes = np.linalg.eigh(spread / np.trace(spread))
        return np.asarray(axes * np.sqrt(np.maximum(values, 0)), np.float32)

    @cached_property
    def _cones(self) -> Vectors:
        """[2, D] what all vectors share, and what tells pictures from texts."""
        return unit(np.random.default_rng(1).normal(size=(2, self.dimension)))

    def _block(self, count: int, rng: np.random.Generator, text: bool) -> Vectors:
        content = self._described[int(text)]
        first, second = (content[rng.integers(len(content), size=count)] for _ in range(2))
        share = rng.uniform(0, SECOND, size=(count, 1)).astype(np.float32)
        shown = unit(first + share * second)
        shape = (count, self.dimension)
        own = rng.standard_normal(shape, dtype=np.float32)
        # A text's own part has little to do with how pictures vary: evenly in all directions.
        own = own / np.float32(np.sqrt(self.dimension)) if text else own @ self._noise.T
        sizes = (TEXT_CONTENT, TEXT_OWN) if text else (CONTENT, OWN)
        shared, gap = self._cones
        cone = SHARED * shared + (-GAP if text else GAP) * gap
        return unit(cone + sizes[0] * shown + sizes[1] * own)

    def pictures(self, count: int, seed: int = 2) -> Iterator[Vectors]:
        """Vectors of ``count`` pictures, in blocks."""
        rng = np.random.default_rng(seed)
        for start in range(0, count, BLOCK):
            yield self._block(min(BLOCK, count - start), rng, text=False)

    def texts(self, count: int, seed: int = 3) -> Vectors:
        """[count, D] text-like queries."""
        return self._block(count, np.random.default_rng(seed), text=True)


def uniform(count: int, dimension: int = 512, seed: int = 4) -> Iterator[Vectors]:
    """Vectors of ``count`` random directions, in blocks: what no embedding looks like."""
    rng = np.random.default_rng(seed)
    for start in range(0, count, BLOCK):
        yield unit(rng.standard_normal((min(BLOCK, count - start), dimension), dtype=np.float32))


def write_vectors(path: Path, blocks: Iterator[Vectors], count: int, dimension: int) -> Vectors:
    """Write blocks one after the other as one array, which is returned mapped."""
    made = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, dimension))
    row = 0
    for block in blocks:
        made[row : row + len(block)] = block
        row += len(block)
    made.flush()
    del made
    mapped: Vectors = np.load(path, mmap_mode="r")
    return mapped


def write_catalog(path: Path, ids: npt.NDArray[np.int64]) -> None:
    """A row and a path for each id; no captions."""
    with closing(create_catalog(path)) as db:
        numbers = ids.tolist()
        db.executemany(
            "INSERT INTO pictures (id, digest, width, height, bytes, grp, split) "
            "VALUES (?, ?, 640, 480, 118000, ?, 'train')",
            ((each, each.to_bytes(8, "big"), each) for each in numbers),
        )
        rows = ((f"{n // 1000:04}/{n:07}.jpg", each) for n, each in enumerate(numbers))
        db.executemany("INSERT INTO paths VALUES (?, ?)", rows)
        db.commit()


def write_store(place: Path, bundle: Path, count: int, maker: Maker) -> tuple[float, float]:
    """A store whose release has ``count`` pictures of ``maker`` and that bundle.

    Returns the seconds that making the vectors and the index took.
    """
    store, digest = Store(str(place)), bundle_digest(bundle)
    store.claim()
    store.put_model(bundle, digest)
    rng = np.random.default_rng(5)
    ids = np.unique(rng.integers(1, 2**63 - 1, count + 16))[:count]
    with tempfile.TemporaryDirectory(dir=place) as folder:
        segment = Path(folder) / "segment"
        segment.mkdir()
        began = time.perf_counter()
        vectors = write_vectors(
            segment / "vectors.npy", maker.pictures(count), count, maker.dimension
        )
        made = time.perf_counter()
        np.save(segment / "ids.npy", ids)
        write_catalog(segment / CATALOG, ids)
        indexing = time.perf_counter()
        ann.make(vectors, segment)
        seconds = made - began, time.perf_counter() - indexing
        segments = (SegmentRef(digest=store.put_segment(segment)),)
    release = Release(
        model=digest,
        segments=segments,
        inventory=f"{count} made vectors",
        pictures=count,
        dimension=maker.dimension,
        files=store.files_of(digest, segments),
    )
    store.publish(store.write_release(release), after=0, reason="train")
    return seconds
