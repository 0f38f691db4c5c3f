"""The fast figures against slow, obvious ones; the bootstrap against what it must mean."""

from __future__ import annotations

import doctest
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest

from wentu import retrieval
from wentu.errors import InputError, QualityError
from wentu.retrieval import (
    IntArray,
    Ranks,
    mrr,
    paired_bootstrap,
    rank,
    recall_at,
    summarize,
)


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WENTU_LANG", "en")


def slow_rank(
    queries: npt.NDArray[np.float32],
    gallery: npt.NDArray[np.float32],
    relevant: list[IntArray],
    k: int,
) -> tuple[list[int], list[float]]:
    """Sort every gallery by hand, irrelevant items first among equals."""
    best, precision = [], []
    for query, rows in zip(queries, relevant, strict=True):
        right = {int(row) for row in rows}
        scored = [(-float(query @ item), row in right) for row, item in enumerate(gallery)]
        hits = [is_right for _, is_right in sorted(scored)]
        best.append(hits.index(True) + 1)
        gain = Fraction(0)
        for position, is_right in enumerate(hits[:k], start=1):
            if is_right:
                gain += Fraction(sum(hits[:position]), position)
        precision.append(float(gain / min(len(right), k)))
    return best, precision


def small_integers(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.float32]:
    """Vectors whose products are exact in float32 and often equal."""
    return rng.integers(-2, 3, size=shape).astype(np.float32)


def unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    lengths: npt.NDArray[np.float64] = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths).astype(np.float32)


def own_row(number: int) -> list[IntArray]:
    return [np.array([row]) for row in range(number)]


def test_the_worked_example_runs() -> None:
    outcome = doctest.testmod(retrieval)
    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("number", "size", "k"), [(7, 40, 10), (30, 9, 10), (12, 25, 3), (5, 1, 10), (3, 10, 10)]
)
def test_matches_the_slow_one_with_ties_and_many_answers(
    seed: int, number: int, size: int, k: int
) -> None:
    rng = np.random.default_rng(seed)
    queries, gallery = small_integers(rng, number, 4), small_integers(rng, size, 4)
    relevant = [
        rng.choice(size, size=rng.integers(1, size + 1), replace=False) for _ in range(number)
    ]
    ranks = rank(queries, gallery, relevant, map_k=k, block=4)
    best, precision = slow_rank(queries, gallery, relevant, k)
    assert ranks.best.tolist() == best
    assert ranks.best.dtype == np.int64
    assert ranks.average_precision.tolist() == pytest.approx(precision, abs=1e-12)


@pytest.mark.parametrize("block", [1, 2, 6, 7, 8, 19, 20, 21, 1000])
def test_the_block_changes_nothing(block: int) -> None:
    rng = np.random.default_rng(3)
    queries, gallery = unit(rng.normal(size=(20, 33))), unit(rng.normal(size=(57, 33)))
    relevant = [rng.choice(57, size=rng.integers(1, 15), replace=False) for _ in range(20)]
    whole, parts = (rank(queries, gallery, relevant, block=size) for size in (256, block))
    assert whole.best.tolist() == parts.best.tolist()
    assert whole.average_precision.tolist() == parts.average_precision.tolist()


def test_the_input_is_left_as_it_was() -> None:
    rng = np.random.default_rng(4)
    queries, gallery = small_integers(rng, 5, 4), small_integers(rng, 8, 4)
    before = queries.copy(), gallery.copy()
    rank(queries, gallery, own_row(5))
    assert (queries == before[0]).all()
    assert (gallery == before[1]).all()


def test_doubled_answers_count_once() -> None:
    rng = np.random.default_rng(5)
    queries, gallery = small_integers(rng, 2, 4), small_integers(rng, 30, 4)
    once = rank(queries, gallery, [np.array([3, 8]), np.array([1])])
    twice = rank(queries, gallery, [np.array([8, 3, 3, 8]), np.array([1, 1])])
    assert once.best.tolist() == twice.best.tolist()
    assert once.average_precision.tolist() == twice.average_precision.tolist()


@pytest.mark.parametrize("size", [50, 61, 300])
def test_a_constant_embedding_is_not_rewarded(size: int) -> None:
    """Rounding at the edges of a matrix product must not look like a ranking either."""
    constant = unit(np.random.default_rng(size).normal(size=(1, 517)))
    same = np.repeat(constant, size, axis=0)
    ranks = rank(same, same, own_row(size), block=7)
    assert ranks.best.tolist() == [size] * size
    assert ranks.average_precision.max() == 0.0


@pytest.mark.parametrize("batch", [1, 7, 32, 50, 64, 128, 256])
def test_mistake_04_validation_is_whole_split(batch: int) -> None:
    """The reference pads 50 pictures to a batch of 128 and calls the padding wrong: 50/128."""
    pictures = unit(np.random.default_rng(0).normal(size=(50, 64)))
    ranks = rank(pictures, pictures, own_row(50), block=batch)
    assert recall_at(ranks, 1) == 1.0
    assert set(summarize(ranks, ranks).values()) == {1.0}


def test_the_summary_holds_every_figure_under_its_name() -> None:
    t2i = Ranks(best=np.array([1, 3, 8, 20]), average_precision=np.array([1.0, 0.5, 0.25, 0.0]))
    i2t = Ranks(best=np.array([2, 1]), average_precision=np.array([0.5, 1.0]))
    summary = summarize(t2i, i2t)
    assert summary == pytest.approx(
        {
            "text_to_image/recall@1": 0.25,
            "text_to_image/recall@5": 0.5,
            "text_to_image/recall@10": 0.75,
            "text_to_image/map@10": 0.4375,
            "text_to_image/mrr": (1 + 1 / 3 + 1 / 8 + 1 / 20) / 4,
            "text_to_image/mean_recall": 0.5,
            "image_to_text/recall@1": 0.5,
            "image_to_text/recall@5": 1.0,
            "image_to_text/recall@10": 1.0,
            "image_to_text/map@10": 0.75,
            "image_to_text/mrr": 0.75,
            "image_to_text/mean_recall": 5 / 6,
            "mean_recall": (0.5 + 5 / 6) / 2,
        }
    )
    assert mrr(i2t) == 0.75


def test_a_figure_cut_elsewhere_is_not_called_map_at_10() -> None:
    odd = Ranks(best=np.array([1]), average_precision=np.array([1.0]), map_k=5)
    with pytest.raises(AssertionError, match="map@5"):
        summarize(odd, odd)


def test_broken_and_missing_embeddings_are_refused_with_a_sentence() -> None:
    good = np.eye(3, dtype=np.float32)
    broken = good.copy()
    broken[1, 1] = np.nan
    with pytest.raises(QualityError, match="diverged"):
        rank(good, broken, own_row(3))
    with pytest.raises(InputError, match="0 queries"):
        rank(good[:0], good, [])
    with pytest.raises(AssertionError, match="query 1 has no relevant item"):
        rank(good, good, [np.array([0]), np.array([], np.int64), np.array([2])])


def test_the_bootstrap_agrees_with_the_textbook_error_of_a_mean() -> None:
    difference = np.random.default_rng(1).normal(0.02, 0.3, size=800)
    interval = paired_bootstrap(difference, np.arange(800), resamples=4000)
    error = difference.std() / np.sqrt(800)
    assert interval.mean == pytest.approx(difference.mean())
    assert interval.low == pytest.approx(difference.mean() - 1.96 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(difference.mean() + 1.96 * error, abs=0.15 * error)


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for trial in range(200):
        level = rng.normal(0.1, 0.2, size=60)  # pictures differ, their captions less so
        difference = np.repeat(level, 3) + rng.normal(0, 0.1, size=180)
        interval = paired_bootstrap(
            difference, np.repeat(np.arange(60), 3), resamples=400, seed=trial, level=0.9
        )
        covered += interval.low <= 0.1 <= interval.high
    assert 0.82 <= covered / 200 <= 0.97


def test_clusters_widen_the_interval() -> None:
    """Five copies of each query are no new evidence."""
    difference = np.repeat(np.random.default_rng(3).normal(0.05, 0.3, size=100), 5)
    naive = paired_bootstrap(difference, np.arange(500))
    honest = paired_bootstrap(difference, np.repeat(np.arange(100), 5))
    widths = [interval.high - interval.low for interval in (naive, honest)]
    assert widths[1] > 1.8 * widths[0]  # sqrt(5) = 2.2 in expectation
    assert naive.mean == honest.mean


def test_clusters_of_different_sizes_are_weighed_by_their_queries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retrieval, "FEWEST_CLUSTERS", 2)
    interval = paired_bootstrap(np.array([1.0, 1.0, 1.0, 0.0]), np.array([9, 9, 9, -4]))
    assert interval.mean == 0.75
    assert (interval.low, interval.high) == (0.0, 1.0)
    # A quarter of the draws is only the picture without a difference: a tie, which counts half.
    assert interval.probability_better == pytest.approx(0.875, abs=0.03)


@pytest.mark.parametrize("pictures", [2, 3, 5, 8, 10, 30])
def test_equal_models_are_seldom_told_apart(pictures: int) -> None:
    """At a level of 95 % the whole interval is above 0 once in 40 tries, however few pictures."""
    rng, tries = np.random.default_rng(0), 1000
    clusters = np.repeat(np.arange(pictures), 5)
    promoted = 0
    for seed in range(tries):
        common = np.repeat(rng.normal(size=pictures), 5)
        difference = (common + rng.normal(size=5 * pictures)) / 5
        interval = paired_bootstrap(difference, clusters, seed=seed)
        promoted += interval.low > 0
    assert promoted / tries < 0.04
    if pictures == 30:
        assert promoted / tries > 0.01  # and not because nothing ever is


def test_the_bootstrap_is_repeatable_and_its_chunks_do_not_show(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    difference = np.random.default_rng(5).normal(size=90)
    clusters = np.arange(90) // 2
    whole = paired_bootstrap(difference, clusters, resamples=300, seed=7)
    assert whole == paired_bootstrap(difference, clusters, resamples=300, seed=7)
    assert whole != paired_bootstrap(difference, clusters, resamples=300, seed=8)
    monkeypatch.setattr(retrieval, "_DRAWS_AT_ONCE", 100)
    assert whole == paired_bootstrap(difference, clusters, resamples=300, seed=7)


def test_equal_models_are_a_coin_toss() -> None:
    interval = paired_bootstrap(np.zeros(40), np.arange(40))
    assert interval == retrieval.Interval(mean=0.0, low=0.0, high=0.0, probability_better=0.5)


def test_too_few_pictures_are_no_evidence() -> None:
    alone = paired_bootstrap(np.array([1.0, 0.5]), np.array([4, 4]))
    assert alone == retrieval.Interval(mean=0.75, low=-1.0, high=1.0, probability_better=0.5)
    with pytest.raises(InputError, match="test queries"):
        paired_bootstrap(np.array([]), np.array([], np.int64))
