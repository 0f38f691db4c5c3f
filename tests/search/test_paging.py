"""Pages by key: nothing twice and nothing left out, also where scores tremble."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wentu.errors import InputError
from wentu.search.paging import BAND, Rest, best, end_of, read_place
from wentu.search.query import DEEPEST, OtherModelError

MODEL = "0123456789abcdef0123456789abcdef"
NONE = np.empty(0, np.int64)


def pages(scores: np.ndarray, ids: np.ndarray, k: int, noise: float) -> list[int]:
    """All ids, page by page; each page's scores come out a little different."""
    rng = np.random.default_rng(0)
    shown: list[int] = []
    text = ""
    while True:
        trembling = (scores + noise * rng.uniform(-1, 1, len(scores))).astype(np.float32)
        before = read_place(text, MODEL) if text else None
        left = Rest(drop=NONE, before=before).left(trembling, ids)
        page, found = best(trembling[left], ids[left], k)
        if not len(found):
            return shown
        shown += found.tolist()
        text = end_of(MODEL, len(shown), page, found, before, True).text()
        assert len(text) <= 1000


@given(
    st.lists(st.sampled_from([0.1, 0.2, 0.200001, 0.3, 0.9]), min_size=1, max_size=40),
    st.integers(1, 9),
)
def test_every_picture_comes_once(values: list[float], k: int) -> None:
    scores = np.array(values, np.float32)
    ids = np.random.default_rng(len(values)).permutation(len(values)).astype(np.int64) + 10
    assert sorted(pages(scores, ids, k, 0.0)) == sorted(ids.tolist())
    assert sorted(pages(scores, ids, k, BAND / 4)) == sorted(ids.tolist())


def test_many_equal_scores_are_ordered_by_id() -> None:
    scores, ids = np.full(500, 0.5, np.float32), np.arange(500, dtype=np.int64)
    assert pages(scores, ids, 7, 0.0) == ids.tolist()


@given(st.lists(st.floats(-1, 1, width=32), max_size=60), st.integers(1, 70))
def test_the_best_are_those_of_a_whole_sort(values: list[float], need: int) -> None:
    scores = np.array(values, np.float32)
    ids = np.arange(len(scores), dtype=np.int64)[::-1]
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], ids[row]))[:need]
    found = best(scores, ids, need)
    assert found[0].tolist() == scores[order].tolist()
    assert found[1].tolist() == ids[order].tolist()


def test_a_new_picture_that_comes_before_is_not_shown_later() -> None:
    scores, ids = np.array([0.9, 0.8, 0.7], np.float32), np.array([1, 2, 3], np.int64)
    place = end_of(MODEL, 2, scores[:2], ids[:2], None, False)
    assert place.behind(np.array([0.95, 0.85, 0.75], np.float32), ids + 10).tolist() == [
        False,
        False,
        True,
    ]


def test_another_model_and_nonsense_are_sentences() -> None:
    place = end_of(MODEL, 1, np.array([0.5], np.float32), np.array([7], np.int64), None, True)
    assert read_place(place.text(), MODEL) == place
    with pytest.raises(OtherModelError, match="the model changed meanwhile"):
        read_place(place.text(), MODEL[::-1])
    deep = end_of(MODEL, DEEPEST + 1, np.array([0.5]), np.array([7]), None, True).text()
    for wrong in (deep, "x", "AAAA", place.text()[:-3], place.text() + "AAAA", "ü", "*" * 40):
        with pytest.raises(InputError, match="after: give what the page before ended with"):
            read_place(wrong, MODEL)
