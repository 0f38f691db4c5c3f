"""Pictures, captions and features of Chinese-CLIP -> a catalog and vectors, as stages make them.

``catalogue`` does the work of the stage pairs, ``gather`` that of features, and index and promote
go on from there. Nothing is embedded that the user has a feature of; that features, pictures and
model belong together is proven on a sample before anything is published.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wentu import catalog as making
from wentu import pictures as decoder
from wentu.captions import split_of
from wentu.catalog import PictureFiles
from wentu.clip.bundle import Bundle, bundle_digest
from wentu.collection import Collection
from wentu.errors import InputError, QualityError
from wentu.formats import (
    CATALOG,
    Manifest,
    batched,
    create_catalog,
    open_catalog,
    read_manifest,
    write_json,
    write_manifest,
)
from wentu.interchange.jsonl import count_lines, read_features
from wentu.language import pick
from wentu.progress import Reporter
from wentu.store import Store

SAMPLE = 32
"""Pictures by which features and model are compared."""
LEAST_COSINE = 0.99
"""Mean over the sample. Measured with the tiny model, untrained, on 32 photos: torch's features
against its ONNX file 1.0000, half precision above 0.999, another picture's 0.98, another seed's
-0.09. Pictures that the reference turns or fills differently (EXIF, transparency) lower it."""
_UNIT = 1e-4
"""A feature whose length is off by less keeps its bits."""
_BATCH = 32

Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


# --- the catalog ------------------------------------------------------------------------------


def catalogue(
    out: Path,
    collection: Collection,
    listed: Iterable[Any],
    memory: Path,
    inventory: str,
    report: Reporter,
) -> str:
    """Write the catalog of a folder of unpacked pictures into ``out``; what is wrong, in words.

    Args:
        listed: rows of an inventory. memory: what the Unpacker remembered.
    """
    with closing(create_catalog(out / CATALOG)) as catalog:
        catalog.execute("ATTACH ? AS unpacked", (str(memory),))
        making.add_pictures(catalog, collection, listed, report)
        _describe(catalog)
        facts = (("convert", "none"), ("split", "open"))
        catalog.executemany("INSERT INTO facts VALUES (?, ?)", facts)
        catalog.commit()
        some = catalog.execute("SELECT path, reason FROM rejected ORDER BY path LIMIT 3").fetchall()
        bad = int(catalog.execute("SELECT count(*) FROM rejected").fetchone()[0])
        readable = catalog.execute("SELECT 1 FROM pictures").fetchone()
    told = "; ".join(f"{path}: {reason}" for path, reason in some)
    if not readable:
        raise InputError(
            f"none of the {bad:,} pictures can be read: {told}.",
            f"{bad:,} 张图片全部无法读取：{told}。",
        )
    write_manifest(out, Manifest(stage="pairs", config={}, inputs={"inventory": inventory}))
    text = pick(f"{bad:,} pictures cannot be read: {told}", f"{bad:,} 张图片无法读取：{told}")
    return text if bad else ""


def _describe(catalog: sqlite3.Connection) -> None:
    """Give the pictures their captions, their split and their old id.

    Equal files under several ids are one picture, which gets the first of them: it comes last.
    """
    rows = catalog.execute(
        "SELECT p.image_id, p.path, min(m.split) FROM unpacked.pictures p "
        "JOIN unpacked.members m USING (image_id) GROUP BY p.image_id ORDER BY p.rowid DESC"
    )
    query = "SELECT text FROM unpacked.captions WHERE image_id = ? ORDER BY rowid"
    for image_id, path, split in rows:
        texts = ((text, None) for (text,) in catalog.execute(query, (image_id,)))
        making.attach(catalog, path, texts, split_of(Path(f"{split}.json")), image_id)


# --- vectors ----------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Gathered:
    """Where the vectors came from."""

    pictures: int = 0
    imported: int = 0
    """Pictures whose vector is the user's feature."""
    embedded: int = 0
    """Pictures without one, embedded with the model."""
    without_picture: int = 0
    """Features of pictures that are not there."""
    normalised: int = 0
    """Features whose length was not 1."""
    cosine: float = 1.0
    """Mean over the sample of features against model."""

    def __str__(self) -> str:
        text = pick(
            f"{self.imported:,} of {self.pictures:,} pictures keep their feature, "
            f"{self.embedded:,} were embedded",
            f"{self.pictures:,} 张图片中 {self.imported:,} 张沿用已有特征，"
            f"{self.embedded:,} 张由模型嵌入",
        )
        if self.imported:
            text += pick(
                f"; cosine of features with the model {self.cosine:.4f} on a sample",
                f"；抽样显示特征与模型的余弦为 {self.cosine:.4f}",
            )
        if self.without_picture:
            text += pick(
                f"; {self.without_picture:,} features belong to no picture here",
                f"；{self.without_picture:,} 个特征找不到图片",
            )
        if self.normalised:
            text += pick(
                f"; {self.normalised:,} features were brought to length 1",
                f"；{self.normalised:,} 个特征已归一化",
            )
        return text


class Gatherer:
    """Fills the vectors of a catalog: first from features, then with the model."""

    def __init__(self, files: PictureFiles, bundle: Bundle, vectors: Vectors, ids: Ids) -> None:
        self.files, self.bundle = files, bundle
        self.ids, self.vectors = ids, vectors
        self.there = np.zeros(len(ids), bool)
        """[N] which rows hold a vector."""
        self.found = Gathered(pictures=len(ids))

    def take(self, features: Sequence[Path], report: Reporter) -> None:
        """Take the features whose picture is there; the first one of a picture counts."""
        query = (
            "SELECT f.picture FROM unpacked.pictures u JOIN main.paths f ON f.path = u.path "
            "WHERE u.image_id = ?"
        )
        for path in features:
            lines = read_features(path)
            for where, image_id, vector in report.track(lines, path.name, count_lines(path)):
                self._check_length(where, vector)
                row = self.files.db.execute(query, (image_id,)).fetchone()
                if row is None:
                    self.found.without_picture += 1
                    continue
                at = int(np.searchsorted(self.ids, row[0]))
                if not self.there[at]:
                    self.vectors[at] = self._normal(vector)
                    self.there[at] = True
        self.found.imported = int(self.there.sum())
        if features and not self.found.imported:
            raise InputError(
                "none of the features belongs to a picture: --features and --tsv name other ids.",
                "没有任何特征对应图片：--features 与 --tsv 中的 id 不一致。",
            )

    def _check_length(self, where: str, vector: Vectors) -> None:
        if len(vector) != self.bundle.dimension:
            raise InputError(
                f"{where}: a feature of {len(vector)} numbers, the model makes "
                f"{self.bundle.dimension}: they do not belong together.",
                f"{where}：特征为 {len(vector)} 维，而模型为 {self.bundle.dimension} 维，"
                "两者不属于同一模型。",
            )

    def _normal(self, vector: Vectors) -> Vectors:
        length = float(np.linalg.norm(vector.astype(np.float64)))
        if abs(length - 1) <= _UNIT:
            return vector
        self.found.normalised += 1
        return np.asarray(vector / length, np.float32)

    def prove(self) -> None:
        """Embed some pictures and compare; QualityError where features and model are strangers."""
        rows = np.flatnonzero(self.there)
        if not len(rows):
            return
        rows = rows[np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(int)]
        images = [
            self.files.collection.read_unchanged(*self.files.find(int(self.ids[row])))
            for row in rows
        ]
        cosines = (self.bundle.encode_image(images) * self.vectors[rows]).sum(axis=1)
        self.found.cosine = float(cosines.mean())
        if not self.found.cosine >= LEAST_COSINE:  # NaN too
            raise QualityError(
                f"the features and the model (or the pictures) do not belong together: on "
                f"{len(rows)} pictures the mean cosine is {self.found.cosine:.4f}, at least "
                f"{LEAST_COSINE} is needed. Nothing was published. Name the ONNX files that the "
                "features were made with, or leave out --features to embed every picture anew.",
                f"特征与模型(或图片)不匹配：{len(rows)} 张图片的平均余弦为 "
                f"{self.found.cosine:.4f}，至少应为 {LEAST_COSINE}。没有发布任何内容。"
                "请给出生成这些特征的 ONNX 文件，"
                "或去掉 --features 以重新嵌入全部图片。",
            )

    def complete(self, store: Store, report: Reporter) -> None:
        """Embed the pictures without a feature, and make every thumbnail that the store lacks."""
        label = pick("thumbnails", "缩略图")
        with ThreadPoolExecutor() as pool:
            rows = report.track(range(len(self.ids)), label, len(self.ids))
            for part in batched(rows, _BATCH):
                items = list(self._open(part, store))
                pictures = list(pool.map(self._decode, (file for _, file, _ in items)))
                lacking = [
                    (row, image)
                    for (row, *_), image in zip(items, pictures, strict=True)
                    if not self.there[row]
                ]
                if lacking:
                    arrays = np.stack([self.bundle.processor.pixels(image) for _, image in lacking])
                    self.vectors[[row for row, _ in lacking]] = self.bundle.encode_arrays(arrays)
                    self.found.embedded += len(lacking)
                for (_, _, key), image in zip(items, pictures, strict=True):
                    if not store.storage.exists(key):
                        store.storage.write(key, decoder.thumbnail(image))

    def _open(self, rows: list[int], store: Store) -> Iterator[tuple[int, tuple[str, bytes], str]]:
        """(row, (file, digest), key of the thumbnail) of those that something is to be done for."""
        for row in rows:
            picture = int(self.ids[row])
            key = store.thumbnail_key(picture)
            if not self.there[row] or not store.storage.exists(key):
                yield row, self.files.find(picture), key

    def _decode(self, file: tuple[str, bytes]) -> Any:
        try:
            return decoder.decode(self.files.collection.read_unchanged(*file))
        except (OSError, decoder.PictureError) as error:
            raise InputError(
                f"{file[0]} could be read at first and cannot be now ({error}); import again.",
                f"{file[0]} 起初可读，现在无法读取({error})；请重新导入。",
            ) from None


def gather(
    catalog: Path,
    collection: Collection,
    memory: Path,
    features: Sequence[Path],
    bundle: Path,
    store: Store,
    out: Path,
    report: Reporter,
) -> Gathered:
    """Write ``vectors.npy``, ``ids.npy`` and ``reuse.json`` into ``out``, as features does.

    Args:
        catalog: output of ``catalogue``. memory: what the Unpacker remembered.
    """
    model, opened = bundle_digest(bundle), Bundle(bundle)
    out.mkdir(parents=True, exist_ok=True)
    with closing(open_catalog(catalog / CATALOG)) as db:
        db.execute("ATTACH ? AS unpacked", (str(memory),))
        rows = (row[0] for row in db.execute("SELECT id FROM pictures ORDER BY id"))
        ids = np.fromiter(rows, np.int64)
        shape = (len(ids), opened.dimension)
        vectors = np.lib.format.open_memmap(
            out / "vectors.npy", mode="w+", dtype=np.float32, shape=shape
        )
        gatherer = Gatherer(PictureFiles(db, collection), opened, vectors, ids)
        gatherer.take(features, report)
        gatherer.prove()
        gatherer.complete(store, report)
        vectors.flush()
    np.save(out / "ids.npy", ids)
    reuse = {"model": model, "dimension": opened.dimension, "pictures": len(ids), "segments": []}
    write_json(out / "reuse.json", reuse)
    inputs = {"pairs": read_manifest(catalog, "pairs").digest, "model": model}
    write_manifest(out, Manifest(stage="features", config={}, inputs=inputs))
    return gatherer.found
