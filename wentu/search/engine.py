"""Text, pictures, or a mix of them -> the nearest pictures of the current release.

Safe to share between threads. An engine is closed when nobody uses it any more (see current.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wentu import ann, pictures
from wentu.calibration import LOOKED_AT, THRESHOLD, Calibration, Judged, Known, evidence, from_plain
from wentu.clip.bundle import Bundle, Features
from wentu.clip.convert import convert
from wentu.clip.labels import probabilities, templates_for
from wentu.errors import FormatError, InputError
from wentu.search.filters import Mask, Sieve
from wentu.search.folding import Copies, Folded
from wentu.search.paging import Place, Rest, best, end_of, read_place
from wentu.search.query import DEEPEST, Answer, CaptionHit, Filters, Hit, NotHereError, Query
from wentu.search.records import count_folders, records, shown_folders
from wentu.search.segment import Segment
from wentu.search.syntax import parse
from wentu.search.texts import TextVectors
from wentu.store import Release, Store

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Answer", "CaptionHit", "Engine", "Hit", "Query", "TextVectors", "read_query_picture"]

LOOKED_THROUGH, MOST_CAPTIONS = 1000, 256
"""The nearest pictures, whose captions are compared with a picture, and about so many different
captions at most: they take 4 s of two cores with ViT-B-16, the first time."""


class Engine:
    """A release opened for searching.

    Attributes:
        bundle: its model. texts: the vectors of texts, by that model. calibration: what a score
        means; None in releases of earlier versions.

    Args:
        like: another engine, whose model and segments are used where they are the same.
        connections: to each catalog, opened at once.
    """

    bundle: Bundle
    texts: TextVectors
    calibration: Calibration | None

    def __init__(
        self, store: Store, release: Release, like: Engine | None = None, connections: int = 1
    ) -> None:
        self.store, self.release = store, release
        self.calibration = from_plain(release.calibration)
        self._segments: list[Segment] = []
        self._sieves: list[Sieve] = []
        try:
            if like and like.release.model == release.model:
                self.bundle, self.texts = like.bundle, like.texts
            else:
                self.bundle = Bundle(store.model(release.model))
                self.texts = TextVectors(self.bundle)
            known = {sieve.segment.digest: sieve for sieve in like._sieves} if like else {}
            for each in release.segments:
                sieve = known.get(each.digest) or Sieve(
                    Segment(store.segment(each.digest), each.digest, connections)
                )
                self._segments.append(sieve.segment.hold())
                self._sieves.append(sieve)
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
        _ = self._all_folded, self._known  # takes a second of a million: not in the first query
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
        """The ``k`` nearest pictures, best first: every one, the text as it stands."""
        vector = self.query_vector(text, picture, picture_weight)
        everything = Rest(drop=np.empty(0, np.int64))
        return self._hits(*self._ranked(vector, Query(k=k).k, None, everything), None, None)

    def find(self, query: Query) -> Answer:
        """A page of what is nearest to a mix, best first; pages of one query never overlap.

        Raises NotHereError where ``query.id`` is no picture of this release, OtherModelError where
        ``query.after`` is of another model.
        """
        before = read_place(query.after, self.release.model) if query.after else None
        query = self.understood(query)
        vector, passing = self.vector(query), self._passing(query.filters)
        folded = self._fold(passing, query.id) if query.fold else None
        drop = folded.hidden if folded else np.empty(0, np.int64)
        if query.id is not None:
            drop = np.append(drop, query.id)
        end = query.offset + query.k
        need = max(end + 1, LOOKED_AT)
        scores, ids = self._ranked(vector, need, passing, Rest(drop=drop, before=before))
        more, page, first = len(ids) > end, slice(query.offset, end), ids
        scores, ids = scores[page], ids[page]
        judged = self._judge(query, first, ids, before)
        hits = self._hits(scores, ids, folded, judged)
        rank = (before.rank if before else 0) + query.offset
        answered = judged is None or judged.answered
        ends, model = rank + len(ids), self.release.model
        more &= ends < DEEPEST
        after = end_of(model, ends, scores, ids, before, answered) if more else None
        shown = hits
        if judged and not query.all:
            shown = [hit for hit, fits in zip(hits, judged.fits, strict=True) if fits]
            if not shown:  # what comes now fits no better
                after = None
        return Answer(
            hits=shown,
            total=self.pictures if passing is None else sum(int(m.sum()) for m in passing),
            offset=rank,
            threshold=THRESHOLD if judged else None,
            withheld=len(hits) - len(shown),
            after=after.text() if after else None,
            text=query.text,
            negative=query.negative,
        )

    def browse(self, query: Query) -> Answer:
        """A page of all pictures that pass the filters, by id: as good as shuffled, for ids are
        made of digests. Scores are 0, since nothing was asked; ``query.after`` is an id."""
        passing, after = self._passing(query.filters), query.after or "0"
        if not after.isdigit():
            raise InputError(
                f"after {after[:40]}: give what the page before was answered with.",
                f"after {after[:40]}：请给出上一页返回的值。",
            )
        masks = passing or self._alive
        rows = [part.ids[mask] for part, mask in zip(self._parts, masks, strict=True)]
        ids = np.concatenate([np.empty(0, np.int64), *rows])
        folded, total = self._fold(passing, None) if query.fold else None, len(ids)
        left = np.setdiff1d(ids[ids > int(after)], folded.hidden if folded else [])
        page = left[: query.k].astype(np.int64)
        hits = self._hits(np.zeros(len(page), np.float32), page, folded, None)
        last = str(page[-1]) if len(left) > query.k else None
        return Answer(hits=hits, total=total, after=last)

    def understood(self, query: Query) -> Query:
        """A query whose text is taken apart, and in the characters that the model knows."""
        if query.raw:
            return query
        parsed = parse(query.text)
        negative = dict.fromkeys((*query.negative, *parsed.negative))
        return replace(
            query,
            raw=True,
            text=self._simplified(parsed.text),
            negative=tuple(self._simplified(text) for text in negative),
        )

    def _simplified(self, text: str) -> str:
        """In simplified characters, unless the captions are in others.

        Where captions were converted, the model's own tokenizer does it, by the same table.
        """
        if text.isascii() or not self._captions_are_simplified:
            return text
        return convert(text, "t2s")

    @cached_property
    def _captions_are_simplified(self) -> bool:
        """None of some captions changes when it is converted (1 in 100 may: odd characters)."""
        if self.bundle.processor.convert != "none" or not self._segments:
            return False
        try:
            with self._segments[0].catalog.borrow() as db:  # by id: spread over all
                texts = [row[0] for row in db.execute("SELECT text FROM texts LIMIT 1000")]
            changed = [text for text in texts if convert(text, "t2s") != text]
        except InputError:  # no OpenCC here
            return False
        return 100 * len(changed) <= len(texts)

    @property
    def pictures(self) -> int:
        """How many can be found."""
        return sum(len(part.ids) - len(part.dead) for part in self._parts)

    @cached_property
    def _alive(self) -> list[Mask]:
        """Of each segment, which rows count."""
        return [
            np.isin(part.ids, np.array([*part.dead], np.int64), invert=True) for part in self._parts
        ]

    @cached_property
    def _copies(self) -> Copies:
        return Copies(self._segments, self._alive)

    @cached_property
    def _all_folded(self) -> Folded:
        return self._copies.fold()

    def _fold(self, passing: list[Mask] | None, without: int | None) -> Folded:
        if passing is None and without is None:
            return self._all_folded
        return self._copies.fold(passing, without)

    def _passing(self, filters: Filters) -> list[Mask] | None:
        """Of each segment, which rows count and pass; None: no filter is set."""
        if filters == Filters():
            return None
        return [
            sieve.passing(filters) & alive
            for sieve, alive in zip(self._sieves, self._alive, strict=True)
        ]

    def _ranked(
        self, vector: Features, need: int, passing: list[Mask] | None, rest: Rest
    ) -> tuple[ann.Vectors, ann.Ids]:
        """Scores and ids of the ``need`` best that are left, best first; equal ones by id.

        passing: of each segment the rows that are compared; None: all that count.
        """
        if passing:
            parts = [
                (ann.score_rows(segment.vectors, rows, vector[0]), segment.ids[rows])
                for segment, mask in zip(self._segments, passing, strict=True)
                for rows in [np.flatnonzero(mask)]
            ]
            score_of, id_of = (np.concatenate(each) for each in zip(*parts, strict=True))
            left = rest.left(score_of, id_of)
            return best(score_of[left], id_of[left], need)
        depth = rest.passed + need + min(need, len(rest.drop))
        deepest = rest.at_most + need
        while True:
            scores, ids = ann.search(self._parts, vector, depth)
            left = rest.left(scores[0], ids[0])
            if left.sum() >= need or ids.shape[1] < depth or depth >= deepest:
                return scores[0][left][:need], ids[0][left][:need]
            depth = min(2 * depth, deepest)

    def _judge(
        self, query: Query, first: ann.Ids, page: ann.Ids, before: Place | None
    ) -> Judged | None:
        """Which of a page's pictures fit the text, whatever is excluded; None where that cannot be
        told: other queries than texts, and releases without calibration.

        Args:
            first: the nearest of all pictures. page: those that are asked for. before: where an
            earlier page ended; whether the text is answered was settled then.
        """
        known = self._known
        if known is None or query.picture is not None or query.id is not None:
            return None
        assert self.calibration
        ids = np.concatenate([first[:LOOKED_AT], page])
        vector = self.texts.of(query.text)[None]
        fit, familiar = evidence(vector, self._vectors(ids)[None], known.vectors)
        scores = self.calibration.score(fit, familiar)[0]
        best = float(scores[: len(ids) - len(page)].max(initial=-np.inf))
        answered = before.answered if before else self.calibration.answers(query.text, best, known)
        return self.calibration.judge(query.text, scores[len(ids) - len(page) :], answered)

    @cached_property
    def _known(self) -> Known | None:
        """What pictures are compared by; None where the release is not calibrated."""
        if self.calibration is None:
            return None
        return Known.load(self.store.calibration(self.calibration.known))

    def _vectors(self, ids: ann.Ids) -> ann.Vectors:
        """[N, D] of pictures that are there."""
        result = np.empty((len(ids), self.release.dimension), np.float32)
        for segment, part in zip(self._segments, self._parts, strict=True):
            rows = segment.rows_of(np.unique(ids))
            there = {int(segment.ids[row]): int(row) for row in rows}
            for at, each in enumerate(ids.tolist()):
                if each in there and each not in part.dead:
                    result[at] = segment.vectors[there[each]]
        return result

    def captions(self, picture: bytes | Image, k: int = 10) -> list[CaptionHit]:
        """The ``k`` captions that fit a picture (bytes, or decoded) best, best first."""
        if k < 1:
            raise InputError(f"-k {k}: give 1 or more.", f"-k {k}：至少为 1。")
        vector = self._picture_vector(picture)
        _, ids = ann.search(self._parts, vector[None], LOOKED_THROUGH)
        found: dict[str, str] = {}
        nearest = ids[0].tolist()
        known = self._records(nearest)
        for picture_id in nearest:
            if len(found) >= MOST_CAPTIONS:
                break
            hit = known[picture_id]
            for text in hit.captions:
                found.setdefault(text, hit.paths[0])
        if not found:
            raise InputError(
                "this collection has no captions; search --to pictures.",
                "这个图文集没有描述；请用 --to pictures。",
            )
        texts = list(found)
        scores = self.texts.all(texts) @ vector
        best = np.argsort(-scores, kind="stable")[:k]
        return [
            CaptionHit(text=texts[i], score=float(scores[i]), path=found[texts[i]]) for i in best
        ]

    def classify(self, picture: bytes | Image, labels: Sequence[str]) -> list[tuple[str, float]]:
        """(label, probability) of a picture, the likeliest first."""
        model = _Remembering(self.bundle, self.texts)
        shares = probabilities(model, [picture], labels, templates_for(labels))[0]
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
            query = "SELECT digest FROM pictures WHERE id = ?"
            (digest,) = db.execute(query, (picture,)).fetchone()
            return replace(records(db, [picture])[picture], score=1.0), bytes(digest)

    def _hits(
        self,
        scores: ann.Vectors,
        ids: ann.Ids,
        folded: Folded | None,
        judged: Judged | None,
    ) -> list[Hit]:
        found = self._records(ids.tolist())
        return [
            replace(
                found[int(i)],
                score=float(s),
                similar=folded.behind(int(i)) if folded else (),
                confidence=float(judged.confidence[number]) if judged else None,
            )
            for number, (s, i) in enumerate(zip(scores, ids, strict=True))
        ]

    def _records(self, ids: Sequence[int]) -> dict[int, Hit]:
        """What is known of pictures of the index."""
        found: dict[int, Hit] = {}
        for segment in reversed(self._segments):  # the newest segment knows best
            if left := [each for each in ids if each not in found]:
                with segment.catalog.borrow() as db:
                    found |= records(db, left)
        lost = [each for each in ids if each not in found]
        assert not lost, f"pictures {lost} are in the index and in no catalog"
        return found

    @property
    def index_kind(self) -> str:
        """How the largest segment is searched: Flat is exact."""
        largest = max(self._parts, key=lambda part: len(part.ids), default=None)
        kind = type(largest.index).__name__ if largest else ""
        return kind.removeprefix("Index").removesuffix("IP")

    @cached_property
    def folders(self) -> list[tuple[str, int]]:
        """(folder, pictures below it) of the first two levels; see ``records.shown_folders``."""
        counted: Counter[str] = Counter()
        for segment, part in zip(self._segments, self._parts, strict=True):
            with segment.catalog.borrow() as db:
                counted.update(count_folders(db, part.dead))
        return shown_folders(counted)

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


class _Remembering:
    """A model that need not embed what it did lately."""

    def __init__(self, bundle: Bundle, texts: TextVectors) -> None:
        self.logit_scale = bundle.logit_scale
        self.encode_text, self.encode_image = texts.all, bundle.encode_image


def read_query_picture(path: str | None) -> bytes | None:
    """The bytes of a picture to search with."""
    if not path:
        return None
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"--picture {path}: no such file.", f"--picture {path}：文件不存在。")
    return file.read_bytes()
