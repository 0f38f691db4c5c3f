"""Finding the limits for a model and a gallery, when a release is made.

Held-out captions (valid) say what is there; the captions of the training pictures say what pictures
are compared by. Neither is the test split, so what is measured there stays a measurement. Costs the
embedding of 3,000 texts at most, and one pass over the vectors.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wentu.calibration.background import BACKGROUND
from wentu.calibration.scores import (
    CONFIDENT,
    LOOKED_AT,
    Calibration,
    Doubles,
    Known,
    Limit,
    Scale,
    Vectors,
    evidence,
    share,
    spans,
    units_of,
)
from wentu.formats import open_catalog

Ids = npt.NDArray[np.int64]
Encode = Callable[[Sequence[str]], Vectors]

MOST_KNOWN, MOST_HELD, MOST_PIECES = 2048, 512, 384
"""Texts that are embedded at most."""
FEWEST_HELD, FEWEST_KNOWN = 30, 30
"""With less, a share of 1.5 % is no figure: then by background texts alone."""
LOST = 0.015
"""Share of the held-out captions that may be lost; of others it will be more, up to twice that."""
FALSE = 0.05
"""Share of the background texts that may be answered, where there is nothing else to go by."""
MOST_READ = 0.75
"""A model that began from random weights has to have read so much of a text, at most: it may be
asked with words around it that it does not know."""
POINTS = 41
"""Of the curve."""
BLOCK = 16_384
"""Vectors that are compared at once: 33 MB of scores."""
_MORE = 8
"""Pictures beyond ``LOOKED_AT`` that are kept, in case the own one and its copies are taken out."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A segment: vectors [N, D], which may be mapped, ids [N], and which rows count [N]."""

    vectors: Vectors
    ids: Ids
    alive: npt.NDArray[np.bool_]


class Gallery:
    """The pictures of a release."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self.count = int(sum(part.alive.sum() for part in parts))

    def nearest(self, texts: Vectors, k: int) -> Ids:
        """[Q, K] ids of the nearest pictures, best first; K = min(k, pictures)."""
        scores = [np.empty((len(texts), 0), np.float32)]
        ids = [np.empty((len(texts), 0), np.int64)]
        for part in self._parts:
            for first in range(0, len(part.ids), BLOCK):
                block = slice(first, first + BLOCK)
                here = texts @ np.asarray(part.vectors[block]).T
                here[:, ~part.alive[block]] = -np.inf
                best = np.argpartition(-here, min(k, here.shape[1]) - 1, axis=1)[:, :k]
                scores.append(np.take_along_axis(here, best, 1))
                ids.append(part.ids[block][best])
        score_of, id_of = np.concatenate(scores, axis=1), np.concatenate(ids, axis=1)
        order = np.lexsort((id_of, -score_of), axis=1)[:, : min(k, self.count)]
        return np.take_along_axis(id_of, order, 1)

    def vectors(self, ids: Ids) -> Vectors:
        """[..., D] of pictures that are there."""
        flat = ids.ravel()
        result = np.empty((len(flat), self._parts[0].vectors.shape[1]), np.float32)
        for part in self._parts:
            order = np.argsort(part.ids)
            at = np.minimum(np.searchsorted(part.ids, flat, sorter=order), len(order) - 1)
            rows = order[at]
            here = (part.ids[rows] == flat) & part.alive[rows]
            result[here] = part.vectors[rows[here]]
        return result.reshape(*ids.shape, -1)


@dataclass(frozen=True, kw_only=True)
class Captions:
    """What a collection's captions give."""

    known: list[str]
    """Of training pictures."""
    held: list[str]
    """Of pictures that were not trained on."""
    own: Ids
    """[H] a picture of each."""
    units: frozenset[str]
    """Of all captions that are not held out; empty where that was not asked for."""
    copies: list[set[int]]
    """[H] all pictures that it stands on, and what is nearly the same."""

    @property
    def enough(self) -> bool:
        """Can limits be found by them?"""
        return len(self.held) >= FEWEST_HELD and len(self.known) >= FEWEST_KNOWN


def captions_of(catalog: Path, *, units: bool = False) -> Captions:
    """Some captions, spread over all: texts are ordered by their ids, which are hashes.

    Args:
        units: of all captions, which takes a second for 200,000.
    """
    with closing(open_catalog(catalog)) as db:
        query = (
            "SELECT t.id, t.text, min(p.id) FROM texts t JOIN captions c ON c.text = t.id "
            "JOIN pictures p ON p.id = c.picture WHERE p.split = ? GROUP BY t.id ORDER BY t.id "
        )
        held = db.execute(query + "LIMIT ?", ("valid", MOST_HELD)).fetchall()
        named = {row[0] for row in held}
        rows = db.execute(query + "LIMIT ?", ("train", MOST_KNOWN + len(held)))
        known = [row[1] for row in rows if row[0] not in named][:MOST_KNOWN]
        copies = _copies(db, [row[0] for row in held])
        every = db.execute("SELECT id, text FROM texts") if units else ()
        read = {unit for key, text in every if key not in named for unit in units_of(text)}
    return Captions(
        known=known,
        held=[row[1] for row in held],
        own=np.array([row[2] for row in held], np.int64),
        units=frozenset(read),
        copies=copies,
    )


def _copies(db: sqlite3.Connection, texts: Sequence[int]) -> list[set[int]]:
    """Of each text the pictures that it stands on, and all of their groups."""
    groups: dict[int, set[int]] = {}
    for picture, group in db.execute("SELECT id, grp FROM pictures WHERE grp <> id"):
        groups.setdefault(group, {group}).add(picture)
    query = (
        "SELECT p.id, p.grp FROM captions c JOIN pictures p ON p.id = c.picture WHERE c.text = ?"
    )
    found: list[set[int]] = []
    for text in texts:
        found.append(set())
        for picture, group in db.execute(query, (text,)):
            found[-1] |= {picture} | groups.get(group, set())
    return found


def measure(
    captions: Captions, gallery: Gallery, encode: Encode
) -> tuple[Calibration, Known] | None:
    """The limits of a gallery, and what they need; None where it is empty. ``known`` is to be set.

    Args:
        captions: with ``units`` where the model began from random weights, so that it knows nothing
        but what these captions say. encode: texts -> vectors of length 1.
    """
    if not gallery.count:
        return None
    if captions.enough:
        return _by_captions(captions, gallery, encode)
    return _by_background(gallery, encode)


def _by_background(gallery: Gallery, encode: Encode) -> tuple[Calibration, Known]:
    """Half of the background texts is what pictures are compared by, half what is refused."""
    known, asked = Known(vectors=encode(BACKGROUND[::2])), encode(BACKGROUND[1::2])
    near = gallery.vectors(gallery.nearest(asked, LOOKED_AT))
    fit = evidence(asked, near, known.vectors)[0].max(axis=1)
    scale = _scale(fit)
    scores = scale.of(fit)
    limit = float(np.quantile(scores, 1 - FALSE))
    grid = np.linspace(scores.min() - 1, scores.max() + 1, POINTS)
    return Calibration(
        known="",
        gallery=gallery.count,
        basis="background",
        fit=scale,
        familiar=None,
        least_read=0.0,
        limits=(Limit(units=0, query=limit, picture=limit),),
        slope=1.0,
        queries=0,
        background=len(asked),
        lost=None,
        hidden=None,
        false_accepts=_figure(np.mean(scores >= limit)),
        left_out=None,
        curve=_curve(grid, {"false_accepts": share(scores, grid)}),
    ), known


def _by_captions(captions: Captions, gallery: Gallery, encode: Encode) -> tuple[Calibration, Known]:
    known = Known(vectors=encode(captions.known), units=captions.units)
    held = encode(captions.held)
    near = gallery.nearest(held, LOOKED_AT + _MORE)
    fit, familiar = evidence(held, gallery.vectors(near[:, :LOOKED_AT]), known.vectors)
    scales = _scale(fit.max(axis=1)), _scale(familiar)

    def best(vectors: Vectors, ids: Ids | None = None) -> Doubles:
        ids = gallery.nearest(vectors, LOOKED_AT) if ids is None else ids
        fit, familiar = evidence(vectors, gallery.vectors(ids), known.vectors)
        return np.asarray(scales[0].of(fit).max(axis=1) + scales[1].of(familiar))

    there, own = best(held, near[:, :LOOKED_AT]), best(held, captions.own[:, None])
    gone, nothing = best(held, _without(near, captions.copies)), best(encode(BACKGROUND))
    whole = Limit(
        units=0, query=float(np.quantile(there, LOST)), picture=float(np.quantile(own, LOST))
    )
    shortest = int(np.quantile([len(spans(text)) for text in captions.held], 0.05))
    pieces, of = _pieces(captions.held, shortest)
    vectors = encode(pieces)
    short = _limits(pieces, best(vectors), best(vectors, captions.own[of][:, None]), whole)
    grid = np.quantile(np.concatenate([there, gone, nothing]), np.linspace(0, 1, POINTS))
    least = float(np.quantile([known.read(text) for text in captions.held], LOST))
    middle = max(float(np.median(own)) - whole.picture, 1e-3)
    found = Calibration(
        known="",
        gallery=gallery.count,
        basis="captions",
        fit=scales[0],
        familiar=scales[1],
        least_read=min(least, MOST_READ) if known.units else 0.0,
        limits=(*short, whole),
        slope=float(np.log(CONFIDENT / (1 - CONFIDENT)) / middle),
        queries=len(held),
        background=len(nothing),
        lost=0.0,
        hidden=0.0,
        false_accepts=0.0,
        left_out=0.0,
        curve=_curve(
            grid,
            {
                "lost": 1 - share(there, grid),
                "false_accepts": share(nothing, grid),
                "left_out": share(gone, grid),
            },
        ),
    )

    def answered(texts: Sequence[str], scores: Doubles) -> npt.NDArray[np.bool_]:
        pairs = zip(texts, scores.tolist(), strict=True)
        return np.array([found.answers(text, score, known) for text, score in pairs])

    seen = answered(captions.held, there)
    limits = np.array([found.limit(text).picture for text in captions.held])
    return replace(
        found,
        lost=_figure(np.mean(~seen)),
        hidden=_figure(np.mean(~seen | (own < limits))),
        false_accepts=_figure(np.mean(answered(BACKGROUND, nothing))),
        left_out=_figure(np.mean(answered(captions.held, gone))),
    ), known


def _curve(grid: Doubles, columns: Mapping[str, Doubles]) -> tuple[Mapping[str, float], ...]:
    """Rows of limit and shares."""
    return tuple(
        {"limit": _figure(at)} | {name: _figure(each[row]) for name, each in columns.items()}
        for row, at in enumerate(grid)
    )


def _scale(values: Doubles) -> Scale:
    return Scale(mean=float(values.mean()), deviation=max(float(values.std()), 1e-6))


def _figure(value: float | np.floating[Any]) -> float:
    return round(float(value), 4)


def _without(near: Ids, copies: Sequence[set[int]]) -> Ids:
    """[H, K] the nearest that are none of the copies; the last ones again where few are left."""
    width = min(LOOKED_AT, near.shape[1])
    rows = []
    for row, own in zip(near.tolist(), copies, strict=True):
        left = [each for each in row if each not in own] or row[-1:]
        rows.append((left + left[-1:] * width)[:width])
    return np.array(rows, np.int64)


def _pieces(held: Sequence[str], shortest: int) -> tuple[list[str], Ids]:
    """(pieces of captions, shorter than ``shortest`` units, the caption of each), spread evenly."""
    rng, pieces, of = random.Random(0), [], []
    if shortest < 2:
        return [], np.empty(0, np.int64)
    for number in range(MOST_PIECES):
        row = number * len(held) // MOST_PIECES
        where = spans(held[row])
        if len(where) < 2:
            continue
        length = rng.randint(1, min(shortest, len(where)) - 1)
        first = rng.randrange(len(where) - length + 1)
        pieces.append(held[row][where[first][0] : where[first + length - 1][1]])
        of.append(row)
    return pieces, np.array(of, np.int64)


def _limits(pieces: Sequence[str], best: Doubles, own: Doubles, whole: Limit) -> Iterator[Limit]:
    """Of three classes of length, what all but a few of these pieces reach; never more than whole
    captions have to."""
    lengths = np.array([len(spans(piece)) for piece in pieces])
    edges = (
        sorted({int(edge) for edge in np.quantile(lengths, [1 / 3, 2 / 3, 1])}) if pieces else []
    )
    low = 0
    for edge in edges:
        mine = (lengths > low) & (lengths <= edge)
        low = edge
        yield Limit(
            units=edge,
            query=min(whole.query, float(np.quantile(best[mine], LOST))),
            picture=min(whole.picture, float(np.quantile(own[mine], LOST))),
        )
