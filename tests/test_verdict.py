"""Which of two models is promoted: figures made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from wentu import retrieval
from wentu.retrieval import Ranks, Task
from wentu.verdict import Scored, best_wrong, clusters_of, compare, hold_to, judge
from wentu.zeroshot import Scores


def ranks(best: list[int]) -> Ranks:
    return Ranks(best=np.array(best), average_precision=1 / np.array(best))


def scored(best: list[int]) -> Scored:
    """A model that ranks each of ``best`` the same from either side."""
    both = ranks(best)
    metrics = retrieval.summarize(both, both)
    return Scored(
        metrics=metrics, text_to_image=both, image_to_text=both, first=np.zeros(len(best), int)
    )


TASK = Task.of([(number, 100 + number, str(number)) for number in range(40)])
GROUPS = {number: number for number in range(40)}


@pytest.mark.parametrize(
    ("champion", "candidate", "promote"),
    [
        ([20] * 40, [1] * 40, True),
        ([1] * 40, [20] * 40, False),
        ([3] * 40, [3] * 40, False),
        ([1, 20] * 20, [20, 1] * 20, False),  # as good, on other queries
        ([20] * 30 + [1] * 10, [1] * 40, True),
        ([20] + [1] * 39, [1] * 40, False),  # one query better: no certainty
    ],
)
def test_a_champion_is_replaced_only_by_what_is_better_beyond_doubt(
    champion: list[int], candidate: list[int], promote: bool
) -> None:
    models = {"champion": scored(champion), "candidate": scored(candidate)}
    verdict = judge(models, TASK, GROUPS, had_champion=True)
    assert verdict["promote"] is promote
    interval = verdict["interval"]
    assert interval["low"] <= interval["mean"] <= interval["high"]
    assert promote == (interval["low"] > 0)
    gain = models["candidate"].metrics["mean_recall"] - models["champion"].metrics["mean_recall"]
    assert interval["mean"] == pytest.approx(gain)


def test_pictures_of_one_group_are_one_witness() -> None:
    """30 of 40 better convinces where each stands alone, and not where all 30 are one burst."""
    models = {"champion": scored([20] * 30 + [1] * 10), "candidate": scored([1] * 40)}
    burst = {number: 0 if number < 30 else number for number in range(40)}
    assert judge(models, TASK, GROUPS, had_champion=True)["promote"]
    assert not judge(models, TASK, burst, had_champion=True)["promote"]


def test_both_directions_count_half_however_many_captions_there_are() -> None:
    """Two pictures, six captions: only the pictures' own queries improve."""
    task = Task.of([(n % 2, n, str(n)) for n in range(6)])
    same, worse, better = ranks([1] * 6), ranks([20, 20]), ranks([1, 1])
    first = np.zeros(6, int)
    models = {
        name: Scored(metrics={}, text_to_image=same, image_to_text=back, first=first)
        for name, back in (("champion", worse), ("candidate", better))
    }
    verdict = judge(models, task, {0: 0, 1: 1}, had_champion=True)
    assert verdict["interval"]["mean"] == pytest.approx(0.5)


def test_a_first_model_is_handed_on_and_its_figures_are_said() -> None:
    models = {"start": scored([1] * 40), "candidate": scored([20] * 40)}
    verdict = judge(models, TASK, GROUPS, had_champion=False)
    assert verdict["promote"] is True
    assert "-100.0" in verdict["reason"]


def test_queries_are_resampled_with_the_group_of_their_picture() -> None:
    task = Task.of([(5, 1, "狗"), (5, 2, "黑狗"), (9, 3, "猫"), (7, 3, "猫")])
    clusters = clusters_of(task, {5: 50, 7: 70, 9: 70})
    assert clusters.tolist() == [50, 50, 70, 50, 70, 70]


# --- a general task that must not be unlearned ---


def suite(top1: float) -> Scores:
    return Scores(top1=top1, top5=1.0, mean_per_class=top1, per_class=[], unreadable=0)


@pytest.mark.parametrize(
    ("rival", "candidate", "most", "promote"),
    [(0.50, 0.49, 0.02, True), (0.50, 0.47, 0.02, False), (0.50, 0.47, 0.05, True)],
)
def test_what_unlearned_too_much_is_not_promoted(
    rival: float, candidate: float, most: float, promote: bool
) -> None:
    models = {"champion": scored([20] * 40), "candidate": scored([1] * 40)}
    verdict = judge(models, TASK, GROUPS, had_champion=True)
    scores = {"champion": suite(rival), "candidate": suite(candidate)}
    held = hold_to(scores, verdict, had_champion=True, most=most)
    assert held["promote"] is promote
    assert held["suite_change"] == pytest.approx(candidate - rival)
    sentence = f"general task {100 * (candidate - rival):+.1f} points (at most {-100 * most:.1f})"
    assert held["reason"] == f"{verdict['reason']}; {sentence}"


def test_a_first_model_is_compared_with_its_start_on_the_suite() -> None:
    models = {"start": scored([20] * 40), "candidate": scored([1] * 40)}
    verdict = judge(models, TASK, GROUPS, had_champion=False)
    scores = {"start": suite(0.5), "candidate": suite(0.1)}
    held = hold_to(scores, verdict, had_champion=False, most=0.02)
    assert held["promote"] is True
    assert "general task -40.0 points" in held["reason"]


# --- the picture that is shown for a query that found another one ------------------------------


def test_the_best_of_the_wrong_ones_is_never_a_right_one() -> None:
    gallery = np.eye(3, dtype=np.float32)
    queries = np.array([[1, 0.5, 0], [0, 1, 1], [0, 0, 1]], np.float32)
    right = [np.array([0]), np.array([2]), np.array([0, 1])]
    assert best_wrong(queries, gallery, right).tolist() == [1, 1, 2]


def test_a_comparison_is_the_difference_in_mean_recall() -> None:
    task = Task.of([(n, 100 * n + m, f"{n} {m}") for n in range(10) for m in range(5)])
    rng = np.random.default_rng(0)

    def model() -> Scored:
        to_image, to_text = (
            Ranks(best=rng.integers(1, 9, size), average_precision=np.ones(size))
            for size in (len(task.texts), len(task.image_ids))
        )
        metrics = retrieval.summarize(to_image, to_text)
        first = np.zeros(len(task.texts), np.int64)
        return Scored(metrics=metrics, text_to_image=to_image, image_to_text=to_text, first=first)

    one, other = model(), model()
    groups = {number: number for number in range(10)}
    gain = other.metrics["mean_recall"] - one.metrics["mean_recall"]
    assert compare(one, other, task, groups).mean == pytest.approx(gain)
