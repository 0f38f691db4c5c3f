"""features: pictures -> vectors; only those that are new when the model did not change.

Reads the original files through the catalog, embeds with the bundle that will be served, and writes
thumbnails. What the current release already holds for the same model is not embedded again: only a
delta is written, and the release that follows is the old segments plus this one.

Several processes can share the work: each is a shard, a run of the sorted ids. The runs are cut
between whole batches of what is to be embedded, so that every picture is in the same batch, and has
the same vector to the bit, however many shards there are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wentu import pictures as decoder
from wentu.catalog import PictureFiles, workers
from wentu.clip.bundle import Bundle, bundle_digest
from wentu.collection import open_collection
from wentu.errors import InputError
from wentu.formats import (
    CATALOG,
    batched,
    open_catalog,
    read_manifest,
    write_json,
)
from wentu.language import pick
from wentu.segments import ReadyVectors, described
from wentu.settings import StageConfig, option
from wentu.stage import Stage
from wentu.store import COMPACT_ABOVE, Release, SegmentRef, Store

Ids = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """How to embed."""

    embed_batch_size: int = option(32, "Pictures embedded at once.", "一次嵌入的图片数。")
    shards: int = option(
        1,
        "Parts that pictures are embedded in, each a task of its own: side by side on a cluster, "
        "two at once here.",
        "嵌入图片时分成的份数，每份一个任务：在集群上并行，本机同时运行两个。",
    )

    def check(self) -> None:
        self.need(self.embed_batch_size >= 1, "embed_batch_size", "give 1 or more.", "至少为 1。")
        self.need(self.shards >= 1, "shards", "give 1 or more.", "至少为 1。")


@dataclass(frozen=True, kw_only=True)
class Reuse:
    """What of the current release goes on serving."""

    kept: tuple[SegmentRef, ...] = ()
    """Its segments, with what was deleted or replaced since marked as dead."""
    known: Ids = field(default_factory=lambda: np.empty(0, np.int64))
    """[K] ids that they serve, sorted; nothing is written for these."""
    vectors_from: tuple[str, ...] = ()
    """Segments to take vectors from for pictures that are written again (captions changed,
    or everything is compacted into one segment)."""


def features(
    *,
    catalog: Path,
    bundle: Path,
    pictures: str,
    store: str,
    out: Path,
    config: Config,
    pointer: int = 0,
    shard: int = 0,
) -> None:
    """Write ``vectors.npy``, ``ids.npy`` and ``reuse.json``; thumbnails into the store.

    Args:
        catalog: output of pairs. bundle: the winner's. pictures: the collection's folder.
        pointer: number of the store's pointer to build upon; 0: none.
        shard: which of ``config.shards`` parts to do, from 1; 0: all of them.
    """
    named = shard_name(shard, config.shards)
    model = bundle_digest(bundle)
    inputs = {
        "pairs": read_manifest(catalog, "pairs").digest,
        "model": model,
        "pointer": str(pointer),
    }
    inputs |= {"shard": named} if named else {}
    with (
        Stage("features", out, config, inputs, shard=named) as stage,
        closing(open_catalog(catalog / CATALOG)) as db,
    ):
        collection, vault = open_collection(pictures), Store(store)
        wanted = ids_of(db)
        reuse = what_to_reuse(vault, pointer, model, db)
        writing = np.setdiff1d(wanted, reuse.known, assume_unique=True)
        ready = ReadyVectors(vault, reuse.vectors_from)
        fresh = np.flatnonzero(~ready.holds(writing))
        mine = rows_of(shard, config, fresh, len(writing))
        fresh = fresh[np.searchsorted(fresh, mine.start) : np.searchsorted(fresh, mine.stop)]
        fresh -= mine.start
        ids, embedder = writing[mine], Bundle(bundle)
        vectors = np.lib.format.open_memmap(
            out / "vectors.npy", mode="w+", dtype=np.float32, shape=(len(ids), embedder.dimension)
        )
        ready.copy(ids, vectors)
        files = PictureFiles(db, collection)
        embed(fresh, ids, vectors, embedder, files, vault, config, stage)
        vectors.flush()
        np.save(out / "ids.npy", ids)
        write_json(
            out / "reuse.json",
            {
                "model": model,
                "dimension": embedder.dimension,
                "pictures": len(writing),
                "segments": [vars(each) for each in reuse.kept],
            },
        )
        # What is not written at all is counted by the first shard, so that shards add up.
        covered = len(ids) + (len(wanted) - len(writing)) * (shard <= 1)
        stage.counts |= {
            "pictures": covered,
            "embedded": len(fresh),
            "reused": covered - len(fresh),
        }


def shard_name(shard: int, shards: int) -> str:
    """As "2/3"; empty for the whole. InputError where there is no such shard."""
    if not 0 <= shard <= shards:
        raise InputError(
            f"--shard {shard}: with --shards {shards} there are 1 to {shards}.",
            f"--shard {shard}：--shards {shards} 时可选 1 到 {shards}。",
        )
    return f"{shard}/{shards}" if shard and shards > 1 else ""


def rows_of(shard: int, config: Config, fresh: npt.NDArray[np.intp], total: int) -> slice:
    """Which of ``total`` rows are a shard's: even runs, in whole batches of what is embedded.

    Args:
        fresh: the rows to embed, sorted; the others are copied, which costs next to nothing.
    """
    size, shards = config.embed_batch_size, config.shards
    batches = -(-len(fresh) // size)

    def cut(number: int) -> int:
        if number in (0, shards) or not len(fresh):
            return total * number // shards
        return int(fresh[size * (batches * number // shards)])

    return slice(cut(shard - 1), cut(shard)) if shard else slice(0, total)


def what_to_reuse(store: Store, pointer: int, model: str, db: sqlite3.Connection) -> Reuse:
    """Compare the catalog with the current release, picture by picture."""
    found = store.pointer(pointer) if pointer else None
    release = store.release(found.release) if found else None
    if release is None or release.model != model:
        return Reuse()
    digests = tuple(segment.digest for segment in release.segments)
    if len(digests) >= COMPACT_ABOVE:
        return Reuse(vectors_from=digests)
    said = described(db)
    kept, known = [], []
    for segment in release.segments:
        with closing(open_catalog(store.segment(segment.digest) / CATALOG)) as old:
            before = described(old)
        dead = np.array(segment.tombstones, np.int64)
        same = np.intersect1d(said, before, assume_unique=True)["id"]
        serves = np.setdiff1d(same, dead, assume_unique=True)
        gone = np.union1d(dead, np.setdiff1d(before["id"], serves, assume_unique=True))
        kept.append(SegmentRef(digest=segment.digest, tombstones=tuple(gone.tolist())))
        known.append(serves)
    if wasteful(release, kept):
        return Reuse(vectors_from=digests)
    return Reuse(kept=tuple(kept), known=np.unique(np.concatenate(known)), vectors_from=digests)


def wasteful(release: Release, kept: list[SegmentRef]) -> bool:
    """Are a third of the rows dead? Then it is time to write everything as one segment."""
    return 3 * sum(len(segment.tombstones) for segment in kept) > release.pictures


def ids_of(db: sqlite3.Connection) -> Ids:
    """[N] every picture's id, sorted."""
    count = db.execute("SELECT count(*) FROM pictures").fetchone()[0]
    rows = (row[0] for row in db.execute("SELECT id FROM pictures ORDER BY id"))
    return np.fromiter(rows, np.int64, count)


def embed(
    rows: npt.NDArray[np.intp],
    ids: Ids,
    vectors: npt.NDArray[np.float32],
    bundle: Bundle,
    files: PictureFiles,
    store: Store,
    config: Config,
    stage: Stage,
) -> None:
    """Fill ``vectors[rows]``: threads decode, and write thumbnails, a batch ahead of the model."""

    def prepare(item: tuple[int, tuple[str, bytes]]) -> Pixels:
        picture, (path, digest) = item
        try:
            image = decoder.decode(files.collection.read_unchanged(path, digest))
        except (OSError, decoder.PictureError) as error:
            raise InputError(
                f"{path} could be read when the run began and cannot be now ({error}); run again.",
                f"{path} 在运行开始时可读，现在无法读取({error})；请重新运行。",
            ) from None
        key = store.thumbnail_key(picture)
        if not store.storage.exists(key):
            store.storage.write(key, decoder.thumbnail(image))
        return bundle.processor.pixels(image)

    def batches(pool: ThreadPoolExecutor) -> Iterator[tuple[list[int], list[Pixels]]]:
        ahead: tuple[list[int], Any] | None = None
        for part in batched(rows, config.embed_batch_size):
            items = [(picture, files.find(picture)) for picture in ids[part].tolist()]
            following = part, pool.map(prepare, items)
            if ahead:
                yield ahead[0], list(ahead[1])
            ahead = following
        if ahead:
            yield ahead[0], list(ahead[1])

    label = pick("embedding", "嵌入")
    if len(rows) and (text := bundle.device_note()):
        stage.progress.note(text)
    with ThreadPoolExecutor(workers(files.collection)) as pool:
        tracked = stage.progress.track(
            batches(pool), label, len(rows), size=config.embed_batch_size
        )
        for part, prepared in tracked:
            vectors[part] = bundle.encode_arrays(np.stack(prepared))
