"""Text, pictures, or a mix of them -> the nearest pictures of the current release.

Safe to share between threads. An engine is closed when nobody uses it any more (see current.py).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wentu import ann, pictures
from wentu.clip.bundle import Bundle, Features
from wentu.clip.labels import probabilities, templates_for
from wentu.errors import FormatError, InputError
from wentu.search.query import Answer, CaptionHit, Hit, NotHereError, Query
from wentu.search.segment import Segment
from wentu.search.texts import TextVectors
from wentu.store import Release, Store

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Answer", "CaptionHit", "Engine", "Hit", "Query", "TextVectors", "read_query_picture"]

CAPTION_CANDIDATES = 1000
"""Pictures whose captions are looked at. Up to as many, picture → captions is exact; above it, the
captions of the nearest of them, so that a query need not embed all captions of a collection."""


class Engine:
    """A release opened for searching.

    Attributes:
        bundle: its model. texts: the vectors of texts, by that model.

    Args:
        like: another engine, whose model and segments are used where they are the same.
        connections: to each catalog, opened at once.
    """

    bundle: Bundle
    texts: TextVectors

    def __init__(
        self, store: Store, release: Release, like: Engine | None = None, connections: int = 1
    ) -> None:
        self.store, self.release = store, release
        self._segments: list[Segment] = []
        try:
            if like and like.release.model == release.model:
                self.bundle, self.texts = like.bundle, like.texts
            else:
                self.bundle = Bundle(store.model(release.model))
                self.texts = TextVectors(self.bundle)
            known = {segment.digest: segment for segment in like._segments} if like else {}
            for each in release.segments:
                opened = known.get(each.digest) or Segment(
                    store.segment(each.digest), each.digest, connections
                )
                self._segments.append(opened.hold())
        except BaseException:
            self.close()
            raise
        self._parts = [
            ann.Part(index=segment.index, ids=segment.ids, dead=frozenset(each.tombstones))
            for segment, each in zip(self._segments, release.segments, strict=True)
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
        """Let go of the segments."""
        while self._segments:
            self._segments.pop().let_go()

    def check(self) -> None:
        """Refuse a release whose parts do not fit each other, or whose model does not run.

        Raises FormatError, and whatever ONNX Runtime raises. Both sessions are open afterwards.
        """
        if self.bundle.dimension != self.release.dimension:
            raise FormatError(
                f"release {self.release.id} has {self.release.dimension} dimensions and its model "
                f"{self.bundle.dimension}.",
                f"版本 {self.release.id} 的维数为 {self.release.dimension}，"
                f"而其模型为 {self.bundle.dimension}。",
            )
        for segment in self._segments:
            segment.check(self.release.dimension)
        side = self.bundle.processor.resolution
        blank = np.zeros((1, side, side, 3), np.uint8)
        for vector in (self.bundle.encode_text(["图"]), self.bundle.encode_arrays(blank)):
            if vector.shape != (1, self.release.dimension) or not np.isfinite(vector).all():
                raise FormatError(
                    f"the model {self.release.model[:12]} answers nonsense.",
                    f"模型 {self.release.model[:12]} 的输出无效。",
                )

    # --- queries -> vectors --------------------------------------------------------------------

    def query_vector(
        self, text: str | None, picture: bytes | None, picture_weight: float = 0.5
    ) -> Features:
        """L2-normalised [1, D] of a text, a picture, or both added with that weight."""
        if not 0 <= picture_weight <= 1:
            raise InputError(
                f"--picture-weight {picture_weight}: give a number from 0 to 1.",
                f"--picture-weight {picture_weight}：应为 0 到 1 之间的数。",
            )
        both = bool(text and text.strip() and picture)
        return self.vector(
            Query(
                text=text or "",
                picture=picture or None,
                text_weight=1 - picture_weight if both else 1.0,
                picture_weight=picture_weight if both else 1.0,
            )
        )

    def vector(self, query: Query) -> Features:
        """L2-normalised [1, D] of a mix; see ``Query``."""
        parts: list[Features] = []
        if query.text.strip():
            parts.append(self.texts.of(query.text) * query.text_weight)
        if query.picture is not None:
            parts.append(self._picture_vector(query.picture) * query.picture_weight)
        if query.id is not None:
            segment, row = self.find_row(query.id)
            parts.append(segment.vectors[row] * query.id_weight)
        if not parts:
            raise InputError("give a text, a picture, or both.", "请给出文字、图片，或两者。")
        away = [self.texts.of(text) for text in query.negative if text.strip()]
        if away:
            parts.append(-query.negative_weight * np.mean(away, axis=0))
        total: Features = np.sum(parts, axis=0, keepdims=True)
        length = np.linalg.norm(total, axis=1, keepdims=True)
        return np.asarray(total / np.maximum(length, 1e-12), np.float32)

    def _picture_vector(self, picture: bytes | Image) -> Features:
        # Decoded here, not by the bundle's own threads, which do not know whom they speak to.
        image = pictures.decode(picture) if isinstance(picture, bytes) else picture
        vector: Features = self.bundle.encode_arrays(self.bundle.processor.pixels(image)[None])[0]
        return vector

    # --- searching -----------------------------------------------------------------------------

    def search(
        self,
        text: str | None = None,
        *,
        picture: bytes | None = None,
        k: int = 10,
        picture_weight: float = 0.5,
    ) -> list[Hit]:
        """The ``k`` nearest pictures, best first."""
        vector = self.query_vector(text, picture, picture_weight)
        return self._hits(*self._nearest(vector, Query(k=k), None))

    def find(self, query: Query) -> Answer:
        """A page of what is nearest to a mix, best first; pages of one query never overlap.

        Raises NotHereError where ``query.id`` is no picture of this release.
        """
        vector, folder = self.vector(query), query.folder.strip("/")
        rows = self._rows_in(folder) if folder else None
        scores, ids = self._nearest(vector, query, rows)
        if query.id is not None:
            other = ids != query.id
            scores, ids = scores[other], ids[other]
        page = slice(query.offset, query.offset + query.k)
        total = self.pictures if rows is None else sum(map(len, rows))
        return Answer(hits=self._hits(scores[page], ids[page]), total=total)

    @property
    def pictures(self) -> int:
        """How many can be found."""
        return sum(len(part.ids) - len(part.dead) for part in self._parts)

    def _nearest(
        self, vector: Features, query: Query, rows: list[ann.Ids] | None
    ) -> tuple[ann.Vectors, ann.Ids]:
        """Scores and ids of as many as the page needs, best first; equal ones by id.

        rows: of each segment those that are compared; None: all that count.
        """
        depth = query.offset + query.k + (query.id is not None)
        if not rows:  # all, or a release without segments
            scores, ids = ann.search(self._parts, vector, depth)
            return scores[0], ids[0]
        parts = [
            (ann.score_rows(segment.vectors, here, vector[0]), segment.ids[here])
            for segment, here in zip(self._segments, rows, strict=True)
        ]
        score_of, id_of = (np.concatenate(each) for each in zip(*parts, strict=True))
        order = np.lexsort((id_of, -score_of))[:depth]
        return score_of[order], id_of[order]

    def _rows_in(self, folder: str) -> list[ann.Ids]:
        """Of each segment the rows that count and lie below a folder."""
        result = []
        for segment, part in zip(self._segments, self._parts, strict=True):
            rows = segment.rows_in(folder)
            if part.dead:
                rows = rows[~np.isin(segment.ids[rows], list(part.dead))]
            result.append(rows)
        return result

    def captions(self, picture: bytes | Image, k: int = 10) -> list[CaptionHit]:
        """The ``k`` captions that fit a picture (bytes, or decoded) best, best first."""
        if k < 1:
            raise InputError(f"-k {k}: give 1 or more.", f"-k {k}：至少为 1。")
        vector = self._picture_vector(picture)
        _, ids = ann.search(self._parts, vector[None], CAPTION_CANDIDATES)
        found: dict[str, str] = {}
        for hit in self._hits(np.zeros(ids.shape[1], np.float32), ids[0]):
            for text in hit.captions:
                found.setdefault(text, hit.paths[0])
        if not found:
            raise InputError(
                "this collection has no captions; search --to pictures.",
                "这个图文集没有描述；请用 --to pictures。",
            )
        texts = list(found)
        scores = self.bundle.encode_text(texts) @ vector
        best = np.argsort(-scores, kind="stable")[:k]
        return [
            CaptionHit(text=texts[i], score=float(scores[i]), path=found[texts[i]]) for i in best
        ]

    def classify(self, picture: bytes | Image, labels: Sequence[str]) -> list[tuple[str, float]]:
        """(label, probability) of a picture, the likeliest first."""
        shares = probabilities(self.bundle, [picture], labels, templates_for(labels))[0]
        return [(labels[i], float(shares[i])) for i in np.argsort(-shares, kind="stable")]

    # --- pictures ------------------------------------------------------------------------------

    def find_row(self, picture: int) -> tuple[Segment, int]:
        """Where a picture is; NotHereError where this release has no such one."""
        for segment, part in zip(self._segments, self._parts, strict=True):
            row = None if picture in part.dead else segment.row(picture)
            if row is not None:
                return segment, row
        raise NotHereError(
            f"there is no picture {picture} in this release.", f"这个版本中没有图片 {picture}。"
        )

    def picture(self, picture: int) -> tuple[Hit, bytes]:
        """What is known of a picture, and the digest of its file; NotHereError."""
        segment, _ = self.find_row(picture)
        with segment.catalog.borrow() as db:
            hit = _hit(db, picture, 1.0)
            (digest,) = db.execute(
                "SELECT digest FROM pictures WHERE id = ?", (picture,)
            ).fetchone()
        assert hit is not None
        return hit, bytes(digest)

    def _hits(self, scores: ann.Vectors, ids: ann.Ids) -> list[Hit]:
        return [self._hit(int(i), float(s)) for s, i in zip(scores, ids, strict=True)]

    def _hit(self, picture: int, score: float) -> Hit:
        for segment in reversed(self._segments):  # the newest segment knows best
            with segment.catalog.borrow() as db:
                hit = _hit(db, picture, score)
            if hit:
                return hit
        raise AssertionError(f"picture {picture} is in the index and in no catalog")

    def thumbnail(self, picture: int) -> bytes:
        """JPEG bytes of a picture's thumbnail; NotHereError where the store has none."""
        try:
            return self.store.storage.read(self.store.thumbnail_key(picture))
        except InputError:  # which would tell where the store is
            raise NotHereError(
                f"picture {picture} has no thumbnail.", f"图片 {picture} 没有缩略图。"
            ) from None

    def example_captions(self, split: str, count: int) -> Sequence[str]:
        """Some captions of a split, spread over it."""
        query = (
            "SELECT min(t.text) FROM pictures p JOIN captions c ON c.picture = p.id JOIN "
            "texts t ON t.id = c.text WHERE p.split = ? GROUP BY p.id ORDER BY p.id LIMIT ?"
        )
        with self._segments[0].catalog.borrow() as db:
            return [row[0] for row in db.execute(query, (split, count))]


def _hit(catalog: sqlite3.Connection, picture: int, score: float) -> Hit | None:
    """What a catalog says of a picture; None where it says nothing."""
    paths = _column(catalog, "SELECT path FROM paths WHERE picture = ? ORDER BY path", picture)
    if not paths:
        return None
    query = (
        "SELECT coalesce(c.original, t.text) FROM captions c "
        "JOIN texts t ON t.id = c.text WHERE c.picture = ? ORDER BY t.id"
    )
    captions = _column(catalog, query, picture)
    (own_id,) = _column(catalog, "SELECT own_id FROM pictures WHERE id = ?", picture)
    return Hit(id=picture, score=score, paths=paths, captions=captions, own_id=own_id)


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
