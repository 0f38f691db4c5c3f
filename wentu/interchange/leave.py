"""A release -> what Chinese-CLIP's evaluation scripts write, of one split.

    {split}_imgs.img_feat.jsonl      features of pictures, as the release holds them
    {split}_texts.txt_feat.jsonl     features of captions, by the release's model
    {split}_texts.jsonl, .tr.jsonl   what is right: the pictures of each caption; the other way
    {split}_predictions.jsonl        the k best pictures of each caption; _tr_: the other way
    {split}_output.json              recall in percent, as evaluation.py computes it; _tr_ as
                                     evaluation_tr.py

The gallery is the split. Search is exact, in blocks over files, so memory does not grow with it.
Of equal scores the smaller id of ours comes first, and counts as found: ``wentu.retrieval`` is
stricter there. A gallery of fewer than k is all of it; the reference's script refuses that.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wentu.clip.bundle import Bundle
from wentu.errors import InputError
from wentu.formats import CATALOG, SPLITS, Text, batched, write_atomic
from wentu.interchange.jsonl import feature_line, replacing
from wentu.language import pick
from wentu.progress import Reporter
from wentu.retrieval import KS
from wentu.store import Release, Store

ALL = "all"
"""Every picture of the release as one gallery, whether it has a split or not."""
_TABLES = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
CREATE TABLE pictures (id INTEGER PRIMARY KEY, own TEXT, place INTEGER, name INTEGER);
CREATE TABLE texts (id INTEGER PRIMARY KEY, text TEXT, written TEXT);
CREATE TABLE captions (text INTEGER, picture INTEGER, PRIMARY KEY (text, picture)) WITHOUT ROWID;
CREATE INDEX captions_by_picture ON captions (picture);
"""

Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Metrics = dict[str, float]


class Gallery:
    """The pictures and captions of one split over all segments of a release, in a folder."""

    def __init__(self, store: Store, release: Release, split: str, folder: Path) -> None:
        self.folder = folder
        self.db = sqlite3.connect(f"{(folder / 'gallery.sqlite').absolute().as_uri()}", uri=True)
        self.db.executescript(_TABLES)
        segments = [store.segment(segment.digest) for segment in release.segments]
        for place, segment in enumerate(release.segments):
            self._add(place, segments[place], segment.tombstones, split)
        self.own_ids = self._choose_names()
        """Are pictures named by the user's ids?"""
        self.ids = self._column("SELECT id FROM pictures ORDER BY id")
        """[N] our ids, sorted; the row of a picture is its place here."""
        self.names = self._column("SELECT name FROM pictures ORDER BY id")
        """[N] the ids that are written."""
        self.vectors = self._gather(segments, release.dimension)
        """[N, D], on disk."""

    def close(self) -> None:
        """Close the database."""
        self.db.close()

    def _add(self, place: int, segment: Path, dead: Iterable[int], split: str) -> None:
        catalog = (segment / CATALOG).absolute().as_uri() + "?mode=ro"
        self.db.execute("ATTACH ? AS whole", (catalog,))
        self.db.execute("CREATE TEMP TABLE dead (id INTEGER PRIMARY KEY)")
        self.db.executemany("INSERT INTO dead VALUES (?)", ((each,) for each in dead))
        self.db.execute(
            "INSERT INTO pictures SELECT id, own_id, ?, id FROM whole.pictures "
            "WHERE (split = ? OR ?) AND id NOT IN (SELECT id FROM dead)",
            (place, split, split == ALL),
        )
        self.db.execute(
            "INSERT INTO captions SELECT c.text, c.picture FROM whole.captions c "
            "JOIN pictures p ON p.id = c.picture WHERE p.place = ?",
            (place,),
        )
        self.db.execute(
            "INSERT OR IGNORE INTO texts SELECT t.id, t.text, coalesce((SELECT min(original) "
            "FROM whole.captions WHERE text = t.id), t.text) FROM whole.texts t "
            "WHERE t.id IN (SELECT text FROM captions)"
        )
        self.db.execute("DROP TABLE dead")
        self.db.commit()
        self.db.execute("DETACH whole")

    def _choose_names(self) -> bool:
        """The user's own ids, if all are integers and no two are equal; else ours."""
        own = (row[0] for row in self.db.execute("SELECT own FROM pictures"))
        if not all(_is_integer(each) for each in own):
            return False
        query = "SELECT count(*) = count(DISTINCT own) FROM pictures"
        if not self.db.execute(query).fetchone()[0]:
            return False
        self.db.execute("UPDATE pictures SET name = CAST(own AS INTEGER)")
        return True

    def _column(self, query: str) -> Ids:
        return np.fromiter((row[0] for row in self.db.execute(query)), np.int64)

    def _gather(self, segments: list[Path], dimension: int) -> Vectors:
        shape = (len(self.ids), dimension)
        path = self.folder / "pictures.npy"
        vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        for place, segment in enumerate(segments):
            theirs, source = np.load(segment / "ids.npy"), np.load(segment / "vectors.npy", "r")
            order = np.argsort(theirs)
            wanted = self._column(f"SELECT id FROM pictures WHERE place = {place} ORDER BY id")
            rows = order[np.searchsorted(theirs[order], wanted)]
            targets = np.searchsorted(self.ids, wanted)
            for start in range(0, len(rows), 4096):
                part = slice(start, start + 4096)
                vectors[targets[part]] = source[rows[part]]
        return vectors

    def embed_texts(self, bundle: Bundle, report: Reporter) -> tuple[Ids, Vectors]:
        """(ids [T], vectors [T, D] on disk) of all captions, by id."""
        ids = self._column("SELECT id FROM texts ORDER BY id")
        path, shape = self.folder / "texts.npy", (len(ids), bundle.dimension)
        vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        # As it was written: the bundle converts it itself, and twice is not once.
        texts = (row[0] for row in self.db.execute("SELECT written FROM texts ORDER BY id"))
        label, done = pick("captions", "描述"), 0
        for part in batched(report.track(texts, label, len(ids)), 1024):
            vectors[done : done + len(part)] = bundle.encode_text(part)
            done += len(part)
        return ids, vectors

    def texts(self) -> Iterator[Text]:
        """Every caption and the pictures it stands on, by the names that are written."""
        query = "SELECT id, text FROM texts ORDER BY id"
        for key, text in self.db.execute(query):
            yield Text(text_id=key, text=text, image_ids=tuple(self.answers("text", key)))

    def answers(self, of: str, key: int) -> list[int]:
        """The pictures of a text (``of`` "text"), or the texts of a picture, by our id."""
        queries = {
            "text": "SELECT p.name FROM captions c JOIN pictures p ON p.id = c.picture "
            "WHERE c.text = ? ORDER BY p.id",
            "picture": "SELECT text FROM captions WHERE picture = ? ORDER BY text",
        }
        return [row[0] for row in self.db.execute(queries[of], (key,))]


def _is_integer(own: str) -> bool:
    """Is it an integer that its reader would write in the same way again, of 64 bits?"""
    try:
        return str(int(own)) == own and -(2**63) <= int(own) < 2**63
    except ValueError:
        return False


def nearest(queries: Vectors, gallery: Vectors, k: int, *, block: int = 256) -> Iterator[Ids]:
    """The rows of the ``k`` best of the gallery for each query, best first, exactly.

    Of equal scores the lower row comes first. Memory is about ``block`` * 16,384 * 8 bytes.
    """
    for first in range(0, len(queries), block):
        chunk = np.asarray(queries[first : first + block])
        scores = np.empty((len(chunk), 0), np.float32)
        rows = np.empty((len(chunk), 0), np.int64)
        for start in range(0, len(gallery), 16_384):
            part = chunk @ gallery[start : start + 16_384].T
            here = np.broadcast_to(np.arange(start, start + part.shape[1]), part.shape)
            scores, rows = _best(np.hstack([scores, part]), np.hstack([rows, here]), k)
        yield from rows


def _best(scores: Vectors, rows: Ids, k: int) -> tuple[Vectors, Ids]:
    """The ``k`` best columns of each line, best first, equal ones by row (they come sorted)."""
    width = scores.shape[1]
    if width > k:
        least = np.partition(scores, width - k, axis=1)[:, width - k, None]
        query, column = np.nonzero(scores >= least)  # ties with the last are all in
    else:
        query, column = (axis.ravel() for axis in np.indices(scores.shape))
    order = np.lexsort((rows[query, column], -scores[query, column], query))
    query, column = query[order], column[order]
    place = np.arange(len(query)) - np.searchsorted(query, query)
    kept = place < k
    shape = len(scores), min(k, width)
    query, column = query[kept], column[kept]
    return scores[query, column].reshape(shape), rows[query, column].reshape(shape)


class Recall:
    """Counts as evaluation.py does: a query is found where any of its answers is among the k."""

    def __init__(self) -> None:
        self.queries, self.hits = 0, dict.fromkeys(KS, 0)

    def add(self, answers: Iterable[int], best: list[int]) -> None:
        """One query: what is right, and what was found, best first."""
        right = set(answers)
        self.queries += 1
        for k in KS:
            self.hits[k] += not right.isdisjoint(best[:k])

    def metrics(self) -> Metrics:
        """Percent, under the reference's names; its arithmetic, to the last bit."""
        r1, r5, r10 = (self.hits[k] * 1.0 / self.queries for k in KS)
        mean = (r1 + r5 + r10) / 3.0
        recalls = {"r1": r1 * 100, "r5": r5 * 100, "r10": r10 * 100}
        return {"score": mean * 100, "mean_recall": mean * 100, **recalls}


def leave(
    store: Store, release: Release, split: str, out: Path, k: int, report: Reporter
) -> tuple[int, dict[str, Metrics]]:
    """Write everything into ``out``; (pictures, metrics of "text_to_image" and "image_to_text").

    No metrics, and no file of texts, where the split has no caption.
    """
    if k < 1:
        raise InputError(f"-k {k}: give 1 or more.", f"-k {k}：至少为 1。")
    out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=out, prefix=".export-") as folder,
        closing(Gallery(store, release, split, Path(folder))) as gallery,
    ):
        if not len(gallery.ids):
            raise _empty(store, release, split)
        with replacing(out / f"{split}_imgs.img_feat.jsonl") as file:
            for name, vector in zip(gallery.names.tolist(), gallery.vectors, strict=True):
                file.write(feature_line("image_id", name, vector))
        text_ids, texts = gallery.embed_texts(Bundle(store.model(release.model)), report)
        if not len(text_ids):
            return len(gallery.ids), {}
        with replacing(out / f"{split}_texts.txt_feat.jsonl") as file:
            for key, vector in zip(text_ids.tolist(), texts, strict=True):
                file.write(feature_line("text_id", key, vector))
        with replacing(out / f"{split}_texts.jsonl") as file:
            file.writelines(text.line() for text in gallery.texts())
        metrics = _both_ways(gallery, text_ids, texts, out / split, k, report)
        return len(gallery.ids), metrics


def _both_ways(
    gallery: Gallery, text_ids: Ids, texts: Vectors, prefix: Path, k: int, report: Reporter
) -> dict[str, Metrics]:
    """Predictions and evaluation, texts to pictures and pictures to texts."""
    metrics: dict[str, Metrics] = {}
    depth, pictures = max(k, *KS), gallery.vectors
    found = Recall()
    rows = report.track(
        nearest(texts, pictures, depth), pick("texts → pictures", "文搜图"), len(texts)
    )
    with replacing(Path(f"{prefix}_predictions.jsonl")) as file:
        for key, best in zip(text_ids.tolist(), rows, strict=True):
            names = gallery.names[best].tolist()
            found.add(gallery.answers("text", key), names)
            file.write(json.dumps({"text_id": key, "image_ids": names[:k]}) + "\n")
    metrics["text_to_image"] = found.metrics()
    write_output(Path(f"{prefix}_output.json"), found.metrics())

    found = Recall()
    rows = report.track(
        nearest(pictures, texts, depth), pick("pictures → texts", "图搜文"), len(pictures)
    )
    with (
        replacing(Path(f"{prefix}_tr_predictions.jsonl")) as file,
        replacing(Path(f"{prefix}_texts.tr.jsonl")) as truth,
    ):
        keys = zip(gallery.ids.tolist(), gallery.names.tolist(), rows, strict=True)
        for key, name, best in keys:
            said, right = text_ids[best].tolist(), gallery.answers("picture", key)
            file.write(json.dumps({"image_id": name, "text_ids": said[:k]}) + "\n")
            if right:  # the reference lists, and counts, captioned pictures only
                found.add(right, said)
                truth.write(json.dumps({"image_id": name, "text_ids": right}) + "\n")
    metrics["image_to_text"] = found.metrics()
    write_output(Path(f"{prefix}_tr_output.json"), found.metrics())
    return metrics


def write_output(path: Path, metrics: Metrics) -> None:
    """The evaluation's result, as evaluation.py's ``report_score`` writes it."""
    result = {"success": True, "score": metrics["score"], "scoreJson": metrics}
    write_atomic(path, json.dumps(result).encode())


def _empty(store: Store, release: Release, split: str) -> InputError:
    """The error for a split without pictures, which says what there is."""
    sizes = dict.fromkeys((*SPLITS, ALL), 0)
    for segment in release.segments:
        dead = set(segment.tombstones)
        catalog = (store.segment(segment.digest) / CATALOG).absolute().as_uri()
        with closing(sqlite3.connect(f"{catalog}?mode=ro", uri=True)) as db:
            for picture, its in db.execute("SELECT id, split FROM pictures"):
                if picture not in dead:
                    sizes[ALL] += 1
                    sizes[its] = sizes.get(its, 0) + 1
    there = ", ".join(f"{name} {sizes[name]:,}" for name in (*SPLITS, ALL))
    return InputError(
        f"--split {split} has no pictures in this release ({there}); name another one.",
        f"当前版本的 {split} 划分没有图片({there})；请用 --split 指定其他划分。",
    )
