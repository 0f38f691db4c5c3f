"""Which pictures fit a text: the statistics, the limits, and what comes of them when served."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wentu.calibration import (
    BESIDE,
    THRESHOLD,
    Calibration,
    Known,
    Limit,
    evidence,
    from_plain,
    unexplained,
)
from wentu.calibration.background import BACKGROUND
from wentu.calibration.measure import (
    LOST,
    Captions,
    Gallery,
    Part,
    captions_of,
    measure,
)
from wentu.calibration.scores import AROUND, RIDGE, spans, units_of
from wentu.formats import create_catalog

D = 64


def unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / length, np.float32)


class World:
    """Pictures of things; a caption lies near its picture, a background text near nothing."""

    def __init__(self, pictures: int = 400, held: int = 200, noise: float = 0.9) -> None:
        rng = np.random.default_rng(0)
        things = unit(rng.standard_normal((pictures, D)))
        self.ids = np.arange(pictures, dtype=np.int64) * 7 + 3
        self.vectors = unit(things + 0.05 * rng.standard_normal((pictures, D)))
        self.texts: dict[str, np.ndarray] = {}
        names = [f"画着东西{chr(0x4E00 + n)}的一张照片" for n in range(pictures)]
        for name, thing in zip(names, things, strict=True):
            self.texts[name] = unit(thing + noise / 8 * rng.standard_normal(D))
        self.rng = rng
        self.captions = Captions(
            known=names[held:],
            held=names[:held],
            own=self.ids[:held],
            units=frozenset(),
            copies=[{each} for each in self.ids[:held].tolist()],
        )

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Of a piece of a caption: what it is a piece of, blurred; of the rest: anything."""
        found = []
        for text in texts:
            whole = self.texts.get(text)
            if whole is None:
                inside = [v for name, v in self.texts.items() if text in name and len(text) > 6]
                base = inside[0] if inside else self.rng.standard_normal(D)
                whole = unit(base + 0.02 * self.rng.standard_normal(D))
            found.append(whole)
        return np.array(found, np.float32)

    def gallery(self, parts: int = 3) -> Gallery:
        cuts = np.array_split(np.arange(len(self.ids)), parts)
        alive = [np.ones(len(cut), bool) for cut in cuts]
        return Gallery(
            [
                Part(vectors=self.vectors[cut], ids=self.ids[cut], alive=here)
                for cut, here in zip(cuts, alive, strict=True)
            ]
        )


def measured(world: World) -> tuple[Calibration, Known]:
    found = measure(world.captions, world.gallery(), world.encode)
    assert found
    return found


def test_evidence_is_what_a_slow_loop_gives() -> None:
    rng = np.random.default_rng(1)
    texts, pictures = unit(rng.standard_normal((5, D))), unit(rng.standard_normal((5, 3, D)))
    for count in (1, 2, 50):
        known = unit(rng.standard_normal((count, D)))
        fit, familiar = evidence(texts, pictures, known)
        for q in range(5):
            assert familiar[q] == pytest.approx(-left_of(texts[q], known), abs=1e-6)
            for k in range(3):
                liked = sorted((pictures[q, k] @ other for other in known), reverse=True)[:BESIDE]
                expected = texts[q] @ pictures[q, k] - sum(liked) / len(liked)
                assert fit[q, k] == pytest.approx(expected, abs=1e-6)


def left_of(text: np.ndarray, known: np.ndarray) -> float:
    """Of a text after ridge regression on the captions around it, as an ordinary least squares
    problem with more rows."""
    around = sorted(known, key=lambda each: -float(each @ text))[: min(AROUND, -(-len(known) // 2))]
    matrix = np.vstack([np.transpose(around), np.sqrt(RIDGE) * np.eye(len(around))])
    weights = np.linalg.lstsq(matrix, np.append(text, np.zeros(len(around))), rcond=None)[0]
    return float(np.linalg.norm(text - weights @ np.array(around)))


def test_a_text_between_captions_is_more_familiar_than_one_beside_them() -> None:
    rng = np.random.default_rng(3)
    plane = rng.standard_normal((4, D))
    known = unit(rng.standard_normal((200, 4)) @ plane)
    between, beside = unit(rng.standard_normal((20, 4)) @ plane), unit(known[:20])
    beside = unit(beside + 0.4 * unit(rng.standard_normal((20, D))))
    assert unexplained(between, known).max() < unexplained(beside, known).min()


def test_the_nearest_are_those_of_a_whole_sort() -> None:
    world = World()
    queries = unit(np.random.default_rng(2).standard_normal((9, D)))
    scores = queries @ world.vectors.T
    expected = world.ids[np.argsort(-scores, axis=1)[:, :6]]
    for parts in (1, 3, 400):
        gallery = world.gallery(parts)
        assert (gallery.nearest(queries, 6) == expected).all()
        assert (gallery.vectors(expected) == world.vectors[(expected - 3) // 7]).all()
    dead = Gallery(
        [Part(vectors=world.vectors, ids=world.ids, alive=~np.isin(world.ids, expected[:, 0]))]
    )
    assert not np.isin(expected[:, 0], dead.nearest(queries, 6)).any()
    assert dead.count == 400 - len(set(expected[:, 0].tolist()))


def test_what_is_there_is_kept_and_what_is_not_is_refused() -> None:
    world = World()
    found, known = measured(world)
    assert (found.basis, found.queries, found.background) == ("captions", 200, len(BACKGROUND))
    assert found.gallery == 400
    assert found.lost == pytest.approx(LOST, abs=0.01)
    assert found.false_accepts <= 0.05
    assert found.left_out is not None
    assert found.left_out <= 0.2
    lost = [row["lost"] for row in found.curve]
    accepted = [row["false_accepts"] for row in found.curve]
    assert lost == sorted(lost)
    assert accepted == sorted(accepted, reverse=True)
    assert (lost[0], accepted[0]) == (0, 1)
    assert from_plain(json.loads(json.dumps(found.plain()))) == found
    assert from_plain({}) is None
    assert len(known.vectors) == 200


def test_without_captions_background_texts_set_the_limit() -> None:
    world = World()
    few = replace(world.captions, held=world.captions.held[:5], own=world.captions.own[:5])
    found = measure(few, world.gallery(), world.encode)
    assert found
    calibration, known = found
    assert (calibration.basis, calibration.lost) == ("background", None)
    assert calibration.false_accepts == pytest.approx(0.05, abs=0.03)
    held = world.captions.held
    vectors = world.encode(held)
    near = world.gallery().vectors(world.gallery().nearest(vectors, 5))
    fit, familiar = evidence(vectors, near, known.vectors)
    best = calibration.score(fit, familiar).max(axis=1)
    kept = [calibration.answers(t, float(b), known) for t, b in zip(held, best, strict=True)]
    assert np.mean(kept) >= 0.95
    assert measure(few, Gallery([]), world.encode) is None


def test_a_model_that_read_nothing_else_refuses_what_it_cannot_read() -> None:
    known = Known(vectors=np.zeros((1, D), np.float32), units=frozenset("红色圆形"))
    assert known.read("红色圆形") == 1
    assert known.read("红狗") == 0.5
    assert known.read("?!") == 1
    assert Known(vectors=known.vectors).read("狗") == 1
    found, _ = measured(World())
    strict = replace(found, least_read=0.75)
    assert not strict.answers("狗", 100.0, known)
    assert strict.answers("红色圆形", 100.0, known)


def test_known_is_read_as_it_was_saved(tmp_path: Path) -> None:
    known = Known(vectors=np.eye(3, dtype=np.float32), units=frozenset("红dog"))
    known.save(tmp_path)
    back = Known.load(tmp_path)
    assert (back.vectors == known.vectors).all()
    assert back.units == known.units


def test_units_are_characters_and_words() -> None:
    assert units_of("一只Dog，跑！4-人桌") == ["一", "只", "dog", "跑", "4", "人", "桌"]
    assert ["红色T-shirt"[a:b] for a, b in spans("红色T-shirt")] == ["红", "色", "T", "shirt"]


def test_a_text_is_held_to_the_limit_of_its_length() -> None:
    found, _ = measured(World())
    short, whole = Limit(units=3, query=-9, picture=-12), Limit(units=0, query=-1, picture=-3)
    found = replace(found, limits=(short, whole))
    assert found.limit("红色") == short
    assert found.limit("a b c d") == whole
    scores = np.array([0.5, -2.0, -4.0])
    judged = found.judge("一二三四五", scores, answered=True)
    assert judged.fits.tolist() == [True, True, False]
    assert (judged.confidence >= THRESHOLD).tolist() == judged.fits.tolist()
    refused = found.judge("一二三四五", scores, answered=False)
    assert not refused.fits.any()
    assert (refused.confidence <= THRESHOLD).all()


def test_captions_come_from_the_splits_that_they_should(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    with closing(create_catalog(path)) as db:
        fill(db)
        db.commit()
    found = captions_of(path, units=True)
    assert set(found.held) == {"描述1", "描述4", "描述7"}
    assert set(found.known) == {f"描述{n}" for n in (0, 3, 6)}
    copies = dict(zip(found.held, found.copies, strict=True))
    assert copies["描述1"] == {1, 4}
    assert dict(zip(found.held, found.own.tolist(), strict=True)) == {
        "描述1": 1,
        "描述4": 4,
        "描述7": 7,
    }
    assert {"描", "0", "2"} - {"描"} <= {unit[-1] for unit in found.units} | found.units


def fill(db: sqlite3.Connection) -> None:
    """Nine pictures, a third in each split; 4 is a copy of 1; all say their number."""
    for number in range(9):
        split, group = ("train", "valid", "test")[number % 3], 1 if number == 4 else number
        db.execute(
            "INSERT INTO pictures VALUES (?, ?, 9, 9, 9, ?, ?, '')",
            (number, bytes([number]), group, split),
        )
        db.execute("INSERT INTO texts VALUES (?, ?)", (100 - number, f"描述{number}"))
        db.execute("INSERT INTO captions VALUES (?, ?, NULL)", (number, 100 - number))
