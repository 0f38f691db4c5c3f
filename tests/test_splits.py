"""Splits: by group, for good, the user's files first; or closed, where all is trained on."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wentu import formats, pictures, splits
from wentu.clip.bundle import training_of
from wentu.formats import read_manifest, read_texts, read_tsv
from wentu.store import Store

Picture = tuple[int, int, str | None]
"""Id, cluster, and the split that the user's files name."""


def assign(
    folder: Path, store: Store, pictures: list[Picture], **fractions: float
) -> dict[int, str]:
    """One run of the assignment over pictures with a caption each."""
    path = folder / "catalog.sqlite"
    path.unlink(missing_ok=True)
    with closing(formats.create_catalog(path)) as db:
        for number, cluster, own in pictures:
            row = (number, b"", 1, 1, 1, cluster, own, "")
            db.execute("INSERT INTO pictures VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            db.execute("INSERT INTO captions VALUES (?, 1, NULL)", (number,))
        splits.assign(db, store, **({"valid_fraction": 0.3, "test_fraction": 0.3} | fractions))
        db.commit()
        return dict(db.execute("SELECT id, split FROM pictures").fetchall())


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.integers(0, 2**63 - 1), st.integers(0, 5), max_size=14),
    st.randoms(use_true_random=False),
)
def test_no_picture_moves_and_no_cluster_is_parted_however_a_collection_grows(
    tmp_path_factory: pytest.TempPathFactory, looks: dict[int, int], rng: random.Random
) -> None:
    """``looks`` is what each picture looks like; they come in any order, a few at a time."""
    folder = tmp_path_factory.mktemp("splits")
    store = Store(str(folder / "store"))
    order, here = rng.sample(sorted(looks), len(looks)), 0
    before: dict[int, str] = {}
    while here < len(order):
        here += rng.randint(1, 4)
        there = order[:here]
        first = {look: min(p for p in there if looks[p] == look) for look in map(looks.get, there)}
        found = assign(folder, store, [(p, first[looks[p]], None) for p in there])
        assert before.items() <= found.items()
        assert len({(looks[p], split) for p, split in found.items()}) == len(first)
        before = found
    assert assign(folder, store, [(p, p, None) for p in order]) == before


@pytest.mark.parametrize(("one", "other"), [(5, 9), (9, 5)])
def test_what_looks_like_a_test_picture_of_the_user_follows_it(
    tmp_path: Path, one: int, other: int
) -> None:
    """Named for test by one file; its near copy stands in a file that names no split."""
    for cluster in range(20, 30):
        store = Store(str(tmp_path / f"store-{cluster}"))
        pictures = [(one, cluster, "test"), (other, cluster, None)]
        assert assign(tmp_path, store, sorted(pictures)) == {one: "test", other: "test"}


def test_the_users_files_win_over_what_was_drawn_before(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    pictures: list[Picture] = [(number, number, None) for number in range(60)]
    drawn = assign(tmp_path, store, pictures)
    assert set(drawn.values()) == set(formats.SPLITS)
    named: list[Picture] = [(n, n, ("test", "valid", "train")[n % 3]) for n in range(60)]
    assert assign(tmp_path, store, named) == {n: own for n, _, own in named}


def test_fractions_are_about_what_was_asked_for(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    found = assign(
        tmp_path, store, [(n, n, None) for n in range(3000)], valid_fraction=0.1, test_fraction=0.3
    )
    counts = [list(found.values()).count(split) for split in ("train", "valid", "test")]
    assert sum(counts) == 3000
    for count, share in zip(counts, (0.6, 0.1, 0.3), strict=True):
        assert abs(count / 3000 - share) < 0.03


def obvious(
    pictures: list[Picture], known: dict[int, tuple[int, str]], fractions: dict[str, float]
) -> dict[int, tuple[int, str]]:
    """(group, split) of each picture in dictionaries, as the rules are told."""
    named = {own for _, _, own in pictures if own}
    drawn = {name: 0.0 if name in named else share for name, share in fractions.items()}
    settled = {cluster: own for _, cluster, own in pictures if own in ("valid", "test")}
    settled |= {cluster: known[number][1] for number, cluster, _ in pictures if number in known}
    groups = {(c, known[n][1]): known[n][0] for n, c, _ in pictures if n in known}
    found = {}
    for number, cluster, own in pictures:
        before = known[number][1] if number in known else settled.get(cluster)
        split = before or splits.by_hash(cluster, drawn)
        if own is not None and not (own == "train" and drawn.get(split, 0.0) > 0):
            split = own
        settled.setdefault(cluster, split)
        found[number] = groups.setdefault((cluster, split), number), split
    return found


PICTURES = st.dictionaries(
    st.integers(0, 2**63 - 1),
    st.tuples(st.integers(0, 4), st.sampled_from([None, None, "train", "valid", "test"])),
    max_size=12,
)


@settings(max_examples=80, deadline=None)
@given(PICTURES, st.randoms(use_true_random=False))
def test_the_assignment_in_tables_is_the_obvious_one_in_dictionaries(
    tmp_path_factory: pytest.TempPathFactory,
    looks: dict[int, tuple[int, str | None]],
    rng: random.Random,
) -> None:
    """Twice: the second time more pictures are there, and the user's files say other things."""
    folder = tmp_path_factory.mktemp("splits")
    store = Store(str(folder / "store"))
    fractions = {"valid": 0.3, "test": 0.3}
    for part in (rng.sample(sorted(looks), len(looks) // 2), sorted(looks)):
        here = sorted(part)
        first = {
            look: min(p for p in here if looks[p][0] == look)
            for look, _ in looks.values()
            if any(looks[p][0] == look for p in here)
        }
        owns = {number: rng.choice([looks[number][1], None]) for number in here}
        given_ = [(number, first[looks[number][0]], owns[number]) for number in here]
        known = {picture: (group, split) for picture, group, split in store.assignments()}
        expected = obvious(given_, known, fractions)
        assert assign(folder, store, given_) == {n: split for n, (_, split) in expected.items()}
        with closing(formats.open_catalog(folder / "catalog.sqlite")) as db:
            groups = dict(db.execute("SELECT id, grp FROM pictures").fetchall())
        assert groups == {number: group for number, (group, _) in expected.items()}
        kept = {picture: (group, split) for picture, group, split in store.assignments()}
        assert kept == known | expected


# --- closed -----------------------------------------------------------------------------------


def files_of(tsv: Path, split: str) -> dict[int, bytes]:
    rows = read_tsv(tsv / f"{split}_imgs.tsv")
    return {image: base64.urlsafe_b64decode(data) for image, data in rows}


def test_closed_trains_on_every_picture_and_tests_on_changed_views_of_them(
    built_closed: Any,
) -> None:
    train, valid, test = (files_of(built_closed.tsv, split) for split in formats.SPLITS)
    sources = {path.read_bytes() for path in (built_closed.collection / "pictures").iterdir()}
    assert set(train.values()) == sources
    assert len(train) == 24
    assert train.keys() == valid.keys() == test.keys()
    for image, data in train.items():
        original, one, two = (
            pictures.to_array(pictures.decode(each), 64).astype(float)
            for each in (data, valid[image], test[image])
        )
        for other in (one, two):  # changed, and still nearer to its own than noise would be
            assert 0.5 < np.abs(other - original).mean() < 60
        assert not np.array_equal(one, two)
    texts = [
        {
            (text.text, text.image_ids)
            for text in read_texts(built_closed.tsv / f"{split}_texts.jsonl")
        }
        for split in formats.SPLITS
    ]
    assert texts[0] == texts[1] == texts[2]
    assert len(texts[0]) == 48
    counts = read_manifest(built_closed.catalog).counts
    assert (counts["train"], counts["valid"], counts["test"]) == (24, 0, 0)


def test_closed_views_are_the_same_every_time(
    built_closed: Any, pair: Callable[..., Any], tmp_path: Path
) -> None:
    pair(built_closed.collection, built_closed.captions, str(tmp_path / "store"), split="closed")
    for path in built_closed.tsv.iterdir():
        if path.name != "manifest.json":
            assert (tmp_path / "tsv" / path.name).read_bytes() == path.read_bytes()


def test_closed_gives_nothing_away_for_good(built_closed: Any) -> None:
    """A later open split of the same collection draws as if there had been none."""
    assert list(Store(built_closed.store).assignments()) == []
    said = formats.facts(built_closed.catalog / "catalog.sqlite")
    assert said == {"convert": "none", "split": "closed", "context_length": "0"}


def test_closed_figures_say_what_kind_of_number_they_are(built_closed: Any) -> None:
    result = json.loads((built_closed.evaluation / "evaluation.json").read_text("utf-8"))
    assert (result["split"], result["pictures"], result["queries"]) == ("closed", 24, 48)
    assert result["notes"][0].startswith("closed: recall on changed views of the training pictures")
    assert set(result["metrics"]) == {"start", "candidate"}
    page = (built_closed.evaluation / "report.html").read_text("utf-8")
    assert result["notes"][0] in page
    assert "24 views of training pictures" in page
    assert "A naming task: every picture is trained on" in (
        built_closed.catalog / "report.html"
    ).read_text("utf-8")
    trained = training_of(built_closed.bundle)[1]
    assert len(trained) == 24  # all of what is tested: an open split would refuse that


def test_open_is_open(built: Any) -> None:
    result = json.loads((built.evaluation / "evaluation.json").read_text("utf-8"))
    assert result["split"] == "open"
    assert not any("closed" in note for note in result["notes"])
    assert formats.facts(built.catalog / "catalog.sqlite")["split"] == "open"
    page = (built.evaluation / "report.html").read_text("utf-8")
    assert "6 test pictures" in page
