"""Text, a picture, or both -> the nearest pictures of the current release."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wentu import ann
from wentu.clip.bundle import Bundle, Features
from wentu.errors import InputError
from wentu.formats import CATALOG, open_catalog
from wentu.store import Release, Store


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


CAPTION_CANDIDATES = 1000
"""Pictures whose captions are looked at. Up to as many, picture → captions is exact; above it, the
captions of the nearest of them, so that a query need not embed all captions of a collection."""


class Engine:
    """A release opened for searching."""

    def __init__(self, store: Store, release: Release) -> None:
        self.store, self.release = store, release
        self.bundle = Bundle(store.model(release.model))
        folders = [store.segment(segment.digest) for segment in release.segments]
        self._catalogs = [open_catalog(folder / CATALOG) for folder in folders]
        self._parts = [
            ann.Part(
                index=ann.read_index(folder / "index.faiss"),
                ids=np.load(folder / "ids.npy"),
                dead=frozenset(segment.tombstones),
            )
            for folder, segment in zip(folders, release.segments, strict=True)
        ]

    @classmethod
    def open(cls, place: str) -> Engine:
        """The current release of a store; InputError where there is none yet."""
        store = Store(place)
        current = store.current()
        if current is None:
            raise InputError(
                f"{place} has no release yet: run `wentu run` first, or name another --store.",
                f"{place} 还没有发布版本：请先运行 wentu run，或用 --store 指定其他仓库。",
            )
        return cls(store, current[1])

    def close(self) -> None:
        """Close the catalogs."""
        for catalog in self._catalogs:
            catalog.close()

    def query_vector(
        self, text: str | None, picture: bytes | None, picture_weight: float = 0.5
    ) -> Features:
        """L2-normalised [1, D] of a text, a picture, or both added with that weight."""
        if not 0 <= picture_weight <= 1:
            raise InputError(
                f"--picture-weight {picture_weight}: give a number from 0 to 1.",
                f"--picture-weight {picture_weight}：应为 0 到 1 之间的数。",
            )
        parts: list[Features] = []
        if text and text.strip():
            parts.append(self.bundle.encode_text([text]) * (1 - picture_weight if picture else 1))
        if picture:
            parts.append(self.bundle.encode_image([picture]) * (picture_weight if parts else 1))
        if not parts:
            raise InputError("give a text, a picture, or both.", "请给出文字、图片，或两者。")
        vector: Features = np.sum(parts, axis=0)
        length = np.linalg.norm(vector, axis=1, keepdims=True)
        return np.asarray(vector / np.maximum(length, 1e-12), np.float32)

    def search(
        self,
        text: str | None = None,
        *,
        picture: bytes | None = None,
        k: int = 10,
        picture_weight: float = 0.5,
    ) -> list[Hit]:
        """The ``k`` nearest pictures, best first."""
        if k < 1:
            raise InputError(f"-k {k}: give 1 or more.", f"-k {k}：至少为 1。")
        vector = self.query_vector(text, picture, picture_weight)
        scores, ids = ann.search(self._parts, vector, k)
        return [self._hit(int(i), float(s)) for s, i in zip(scores[0], ids[0], strict=True)]

    def captions(self, picture: bytes, k: int = 10) -> list[CaptionHit]:
        """The ``k`` captions that fit a picture best, best first."""
        if k < 1:
            raise InputError(f"-k {k}: give 1 or more.", f"-k {k}：至少为 1。")
        vector = self.query_vector(None, picture)
        _, ids = ann.search(self._parts, vector, CAPTION_CANDIDATES)
        found: dict[str, str] = {}
        for hit in (self._hit(int(i), 0.0) for i in ids[0]):
            for text in hit.captions:
                found.setdefault(text, hit.paths[0])
        if not found:
            raise InputError(
                "this collection has no captions; search --to pictures.",
                "这个图文集没有描述；请用 --to pictures。",
            )
        texts = list(found)
        scores = (self.bundle.encode_text(texts) @ vector.T)[:, 0]
        best = np.argsort(-scores, kind="stable")[:k]
        return [
            CaptionHit(text=texts[i], score=float(scores[i]), path=found[texts[i]]) for i in best
        ]

    def _hit(self, picture: int, score: float) -> Hit:
        for catalog in reversed(self._catalogs):  # the newest segment knows best
            paths = _column(
                catalog, "SELECT path FROM paths WHERE picture = ? ORDER BY path", picture
            )
            if paths:
                query = (
                    "SELECT coalesce(c.original, t.text) FROM captions c "
                    "JOIN texts t ON t.id = c.text WHERE c.picture = ? ORDER BY t.id"
                )
                captions = _column(catalog, query, picture)
                (own_id,) = _column(catalog, "SELECT own_id FROM pictures WHERE id = ?", picture)
                return Hit(id=picture, score=score, paths=paths, captions=captions, own_id=own_id)
        raise AssertionError(f"picture {picture} is in the index and in no catalog")

    def thumbnail(self, picture: int) -> bytes:
        """JPEG bytes of a picture's thumbnail."""
        return self.store.storage.read(self.store.thumbnail_key(picture))

    def example_captions(self, split: str, count: int) -> Sequence[str]:
        """Some captions of a split, spread over it."""
        with closing(self._catalogs[0].cursor()) as cursor:
            query = (
                "SELECT min(t.text) FROM pictures p JOIN captions c ON c.picture = p.id JOIN "
                "texts t ON t.id = c.text WHERE p.split = ? GROUP BY p.id ORDER BY p.id LIMIT ?"
            )
            return [row[0] for row in cursor.execute(query, (split, count))]


def _column(catalog: sqlite3.Connection, query: str, value: int) -> tuple[str, ...]:
    return tuple(row[0] for row in catalog.execute(query, (value,)))


def read_query_picture(path: str | None) -> bytes | None:
    """The bytes of a picture to search with."""
    if not path:
        return None
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"--picture {path}: no such file.", f"--picture {path}：文件不存在。")
    return file.read_bytes()
