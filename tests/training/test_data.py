"""The order of training, and what a batch holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.small import processor
from wentu.training.data import Batch, PairBatches, Partners
from wentu.training.parallel import Group
from wentu.training.sampling import order


@pytest.fixture
def batches(built: Any) -> Iterator[Callable[..., PairBatches]]:
    """Make batches of the training split of ``built``: 28 pairs of 14 pictures."""
    made: list[PairBatches] = []

    def make(**changed: Any) -> PairBatches:
        given = {"processors": [processor()], "batch_size": 8, "seed": 0}
        made.append(PairBatches(built.lmdb / "train", **{**given, **changed}))
        return made[-1]

    yield make
    for each in made:
        each.close()


def pairs_of(batches: Iterable[Batch]) -> list[tuple[int, int]]:
    return [
        (int(image), int(text))
        for batch in batches
        for image, text in zip(batch.image_ids, batch.text_ids, strict=True)
    ]


@pytest.mark.parametrize("sampler", ["apart", "random"])
@pytest.mark.parametrize("size", [2, 8, 27, 28, 100])
def test_an_epoch_is_every_pair_once(
    batches: Callable[..., PairBatches], size: int, sampler: str
) -> None:
    made = batches(batch_size=size, sampler=sampler)
    epoch = list(made.epoch(1))
    assert len(epoch) == made.steps == math.ceil(28 / size)
    assert all(len(batch.image_ids) == size for batch in epoch[:-1])
    every = zip(made.image_ids.tolist(), made.text_ids.tolist(), strict=True)
    assert sorted(pairs_of(epoch)) == sorted(every)
    assert len(set(pairs_of(epoch))) == 28


def test_epochs_and_seeds_differ_in_their_order(batches: Callable[..., PairBatches]) -> None:
    one, other = batches(), batches(seed=1)
    orders = [pairs_of(one.epoch(1)), pairs_of(one.epoch(2)), pairs_of(other.epoch(1))]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert pairs_of(one.epoch(1)) == orders[0] == pairs_of(batches().epoch(1))


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=60),
    st.integers(2, 12),
)
def test_apart_is_an_order_of_all_rows(pairs: list[tuple[int, int]], size: int) -> None:
    image, text = np.array(pairs).T
    found = order(image, text, size=size, key=[0, 1], sampler="apart")
    assert sorted(found.tolist()) == list(range(len(pairs)))
    again = order(image, text, size=size, key=[0, 1], sampler="apart")
    assert np.array_equal(found, again)


def test_mistake_14_what_belongs_together_comes_into_different_batches() -> None:
    """200 pictures with five captions, every tenth caption on two pictures; as in Flickr8k."""
    image = np.repeat(np.arange(200), 5)
    text = np.arange(1000)
    text[::10] = text[5::10]

    def together(sampler: str) -> int:
        rows = order(image, text, size=64, key=[0, 1], sampler=sampler)
        parts = [rows[start : start + 64] for start in range(0, 1000, 64)]
        return sum(2 * len(p) - len(set(image[p])) - len(set(text[p])) for p in parts)

    assert together("random") > 100
    assert together("apart") <= 10  # the last batch takes what is left


def test_apart_does_not_search_for_long_where_most_belong_together() -> None:
    image, text = np.arange(20_000), np.zeros(20_000, np.int64)
    found = order(image, text, size=64, key=[0, 1], sampler="apart")
    assert len(set(found.tolist())) == 20_000


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("augment", ["none", "crop", "view"])
def test_mistake_10_an_epoch_resumed_in_the_middle_goes_on_with_its_rest(
    batches: Callable[..., PairBatches], augment: str, flip: bool
) -> None:
    whole = list(batches(augment=augment, flip=flip).epoch(3))
    rest = list(batches(augment=augment, flip=flip).epoch(3, first=2))
    assert len(rest) == 2
    for ours, theirs in zip(rest, whole[2:], strict=True):
        assert np.array_equal(ours.image_ids, theirs.image_ids)
        assert np.array_equal(ours.inputs[0].pictures, theirs.inputs[0].pictures)
        assert np.array_equal(ours.inputs[0].tokens, theirs.inputs[0].tokens)


@pytest.mark.parametrize("processes", [2, 3, 11])
def test_processes_share_the_batches_of_one(
    batches: Callable[..., PairBatches], processes: int
) -> None:
    """The last batch has 4 pairs: of eleven processes some get none."""
    whole = list(batches(augment="crop").epoch(1))
    shares = [
        list(batches(augment="crop", group=Group(rank, processes)).epoch(1))
        for rank in range(processes)
    ]
    for number, batch in enumerate(whole):
        parts = [each[number] for each in shares]
        assert all(np.array_equal(each.image_ids, batch.image_ids) for each in parts)
        pictures = np.concatenate([each.inputs[0].pictures for each in parts])
        assert np.array_equal(pictures, batch.inputs[0].pictures)
        cells = [
            (row + each.own.start, column)
            for each in parts
            for row, column in zip(*each.belongs[0], strict=True)
        ]
        assert sorted(cells) == sorted(zip(*batch.belongs[0], strict=True))


def test_a_batch_holds_the_pictures_and_captions_it_names(
    batches: Callable[..., PairBatches], built: Any
) -> None:
    from wentu import pictures
    from wentu.clip.text import Tokenizer
    from wentu.formats import PairsLmdb

    batch = next(batches().epoch(1))
    with PairsLmdb(built.lmdb / "train") as split:
        texts = {text_id: text for _, text_id, text in split.pairs()}
        tokens = Tokenizer.chinese_bert().encode([texts[each] for each in batch.text_ids.tolist()])
        assert np.array_equal(batch.inputs[0].tokens, tokens)
        assert batch.inputs[0].pictures.shape == (8, 32, 32, 3)
        for row, image in enumerate(batch.image_ids.tolist()):
            picture = pictures.decode(split.picture(image))
            assert np.array_equal(batch.inputs[0].pictures[row], pictures.to_array(picture, 32))


def test_mistake_14_a_batch_knows_all_pairs_of_the_split(
    batches: Callable[..., PairBatches],
) -> None:
    made = batches(batch_size=28, sampler="random")
    (batch,) = made.epoch(1)
    true = set(zip(made.image_ids.tolist(), made.text_ids.tolist(), strict=True))
    for matrix, one, other in (
        (batch.belongs[0], batch.image_ids, batch.text_ids),
        (batch.belongs[1], batch.text_ids, batch.image_ids),
    ):
        found = set(zip(matrix[0].tolist(), matrix[1].tolist(), strict=True))
        swap = one is batch.text_ids
        expected = {
            (i, j)
            for i in range(28)
            for j in range(28)
            if ((other[j], one[i]) if swap else (one[i], other[j])) in true
        }
        assert found == expected
        assert len(found) > 28


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30),
    st.lists(st.integers(0, 9), max_size=8),
    st.lists(st.integers(0, 9), max_size=8),
)
def test_partners_are_those_of_the_pairs(
    pairs: list[tuple[int, int]], ids: list[int], others: list[int]
) -> None:
    pairs = sorted(set(pairs))
    partners = Partners(*np.array(pairs).T)
    found = partners.among(np.array(ids, np.int64), np.array(others, np.int64))
    expected = {(i, j) for i, a in enumerate(ids) for j, b in enumerate(others) if (a, b) in pairs}
    cells = list(zip(found[0].tolist(), found[1].tolist(), strict=True))
    assert set(cells) == expected
    assert len(cells) == len(expected)


def test_augmentation_changes_pictures_with_the_epoch(batches: Callable[..., PairBatches]) -> None:
    made = batches(augment="crop", batch_size=28)
    first, second = (next(made.epoch(number)) for number in (1, 2))
    (row,) = np.flatnonzero(second.text_ids == first.text_ids[0])
    assert not np.array_equal(first.inputs[0].pictures[0], second.inputs[0].pictures[row])


def test_pictures_are_mirrored_only_when_told(batches: Callable[..., PairBatches]) -> None:
    plain, flipped = (next(batches(batch_size=28, flip=f).epoch(1)).inputs[0] for f in (0, 1))
    same = [np.array_equal(*both) for both in zip(plain.pictures, flipped.pictures, strict=True)]
    mirrored = [
        np.array_equal(one[:, ::-1], other)
        for one, other in zip(plain.pictures, flipped.pictures, strict=True)
    ]
    assert all(a or b for a, b in zip(same, mirrored, strict=True))
    assert 0 < sum(same) < 28


def test_a_teacher_sees_the_same_view_at_its_own_size(batches: Callable[..., PairBatches]) -> None:
    from dataclasses import replace

    larger = replace(processor(), preprocessing=replace(processor().preprocessing, resolution=64))
    batch = next(batches(processors=[processor(), larger], augment="crop", flip=True).epoch(1))
    small, large = (each.pictures.astype(float) for each in batch.inputs)
    assert large.shape == (8, 64, 64, 3)
    halved = large.reshape(8, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    assert np.abs(halved - small).mean() < 4
