"""The demo collection: every combination once, splits apart, the same for the same seed."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wentu import demo


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.make_collection(tmp_path_factory.mktemp("demo") / "图 集", seed=0)


def rows_of(folder: Path, split: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / f"cn_{split}.json").read_text("utf-8"))
    return rows


def shown(row: dict[str, Any]) -> demo.Combination:
    """The combination that a row's captions speak of."""
    caption = row["caption"][0]
    words: dict[str, str] = {}
    for name, known in (
        ("shape", demo.SHAPES),
        ("colour", demo.COLOURS),
        ("size", demo.SIZES),
        ("place", demo.PLACES),
        ("background", demo.BACKGROUNDS),
    ):
        (words[name],) = (word for word in known if word in caption)
    return demo.Combination(**words)


def digest(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.*")
        if path.suffix in (".png", ".json")
    }


def test_there_are_1920_distinct_combinations() -> None:
    assert len(demo.combinations()) == len(set(demo.combinations())) == 1920


def test_the_splits_have_their_sizes_and_share_no_combination(drawn: Path) -> None:
    seen = {
        split: [shown(row) for row in rows_of(drawn, split)] for split in ("train", "valid", "test")
    }
    assert {split: len(rows) for split, rows in seen.items()} == {
        "train": 1520,
        "valid": 100,
        "test": 300,
    }
    everything = Counter(each for rows in seen.values() for each in rows)
    assert everything == Counter(demo.combinations())


def test_every_row_has_its_picture_and_two_wordings(drawn: Path) -> None:
    rows = [row for split in ("train", "valid", "test") for row in rows_of(drawn, split)]
    assert len({row["image"] for row in rows}) == 1920
    assert all((drawn / row["image"]).is_file() for row in rows)
    for row in rows:
        combination = shown(row)
        possible = {wording.format(**vars(combination)) for wording in demo.WORDINGS}
        assert len(set(row["caption"])) == 2
        assert set(row["caption"]) <= possible


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    drawn: Path, tmp_path: Path
) -> None:
    same, other = digest(drawn), digest(demo.make_collection(tmp_path / "1", seed=1))
    assert same == digest(demo.make_collection(tmp_path / "0", seed=0))
    assert same.keys() == other.keys()
    assert not set(same.values()) & set(other.values())


def test_a_finished_collection_is_left_as_it_is(drawn: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob("*")}
    assert demo.make_collection(drawn, seed=0) == drawn
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob("*")} == before


@pytest.mark.parametrize("shape", demo.SHAPES)
def test_a_picture_shows_what_it_says(shape: str) -> None:
    combination = demo.Combination(
        shape=shape, colour="红色", size="大", place="中间", background="白色"
    )
    picture = np.asarray(demo.draw(combination, random.Random(3))).astype(int)
    assert picture.shape == (demo.SIDE, demo.SIDE, 3)
    red = (picture[..., 0] > 150) & (picture[..., 1] < 100) & (picture[..., 2] < 100)
    white = picture.min(axis=2) > 225
    assert white[:10].all()
    assert white[-10:].all()
    assert 0.02 < red.mean() < 0.3
    rows, columns = np.nonzero(red)
    assert abs(rows.mean() / demo.SIDE - 0.5) < 0.1
    assert abs(columns.mean() / demo.SIDE - 0.5) < 0.12
