"""Losses against slow, obvious ones, and their gradients over processes and chunks."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from wentu.training.losses import (
    Rows,
    chance,
    distillation_loss,
    hits,
    sigmoid_loss,
    softmax_loss,
)

PAIRS = {
    "all apart": [(i, i) for i in range(6)],
    "two captions of a picture": [(1, 1), (1, 2), (2, 3), (3, 4), (3, 5), (3, 6)],
    "one caption of pictures": [(1, 1), (2, 1), (3, 2), (4, 3), (5, 3), (6, 3)],
    "a pair that is no row": [(1, 1), (2, 2), (3, 3), (4, 4)],
    "one": [(1, 1)],
}
ELSEWHERE = {(1, 2), (4, 3)}
"""Pairs of the training split whose row is in another batch: right answers all the same."""


def belongs(pairs: list[tuple[int, int]]) -> list[list[bool]]:
    """Picture i and caption j, by the training split."""
    true = set(pairs) | ELSEWHERE
    return [[(image, text) in true for _, text in pairs] for image, _ in pairs]


def slow_softmax(
    image: list[list[float]],
    text: list[list[float]],
    scale: float,
    right: list[list[bool]],
    positives: str,
) -> float:
    """One query at a time, as one would write it down."""
    size, total = len(image), 0.0

    def score(i: int, j: int) -> float:
        return scale * sum(a * b for a, b in zip(image[i], text[j], strict=True))

    for i in range(size):
        for line, true in (
            ([score(i, j) for j in range(size)], right[i]),
            ([score(j, i) for j in range(size)], [right[j][i] for j in range(size)]),
        ):
            wanted = [j == i or (true[j] and positives == "share") for j in range(size)]
            seen = [j for j in range(size) if j == i or not (true[j] and positives == "ignore")]
            everything = math.log(sum(math.exp(line[j]) for j in seen))
            total += sum(everything - line[j] for j in range(size) if wanted[j]) / sum(wanted)
    return total / (2 * size)


def slow_sigmoid(
    image: list[list[float]],
    text: list[list[float]],
    scale: float,
    bias: float,
    right: list[list[bool]],
) -> float:
    size, total = len(image), 0.0
    for i in range(size):
        for j in range(size):
            logit = scale * sum(a * b for a, b in zip(image[i], text[j], strict=True)) + bias
            total += math.log1p(math.exp(-logit if right[i][j] else logit))
    return total / size


def unit(seed: int, size: int) -> torch.Tensor:
    vectors = torch.randn(size, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors.double(), dim=1)


def rows(
    image: torch.Tensor, text: torch.Tensor, right: list[list[bool]], own: slice | None = None
) -> Rows:
    matrix, own = torch.tensor(right), own or slice(0, len(image))
    return Rows(image=image, text=text, own=own, belongs=(matrix[own], matrix.T[own]))


@pytest.mark.parametrize("positives", ["share", "ignore", "diagonal"])
@pytest.mark.parametrize("name", PAIRS)
def test_the_softmax_loss_equals_the_slow_one(name: str, positives: str) -> None:
    right = belongs(PAIRS[name])
    image, text = unit(0, len(right)), unit(1, len(right))
    found = softmax_loss(rows(image, text, right), torch.tensor(7.5).double(), positives)
    expected = slow_softmax(image.tolist(), text.tolist(), 7.5, right, positives)
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_the_sigmoid_loss_equals_the_slow_one(name: str) -> None:
    right = belongs(PAIRS[name])
    image, text = unit(0, len(right)), unit(1, len(right))
    scale, bias = torch.tensor(7.5).double(), torch.tensor(-3.0).double()
    found = sigmoid_loss(rows(image, text, right), scale, bias)
    expected = slow_sigmoid(image.tolist(), text.tolist(), 7.5, -3.0, right)
    assert float(found) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["share", "ignore", "diagonal", "sigmoid", "distil"])
@pytest.mark.parametrize("shares", [[0, 6], [0, 3, 6], [0, 1, 1, 4, 6]])
def test_shares_add_up_to_the_whole_in_loss_and_gradient(kind: str, shares: list[int]) -> None:
    """Each process differentiates its own rows by the features of all; the sum is the whole."""
    right = belongs(PAIRS["two captions of a picture"])
    teacher = rows(unit(7, 6), unit(8, 6), right)

    def loss(part: Rows, scale: torch.Tensor) -> torch.Tensor:
        if kind == "sigmoid":
            return sigmoid_loss(part, scale, torch.tensor(-3.0).double())
        if kind == "distil":
            own = rows(teacher.image, teacher.text, right, part.own)
            return distillation_loss(part, scale, own, 9.0)
        return softmax_loss(part, scale, kind)

    def gradients(slices: list[slice]) -> list[torch.Tensor]:
        leaves = [unit(0, 6), unit(1, 6), torch.tensor(7.5).double()]
        leaves = [each.clone().requires_grad_() for each in leaves]
        total = torch.zeros(())
        for own in slices:
            part = loss(rows(leaves[0], leaves[1], right, own), leaves[2])
            part.backward()
            total = total + part.detach()
        return [total, *(each.grad for each in leaves if each.grad is not None)]

    whole = gradients([slice(0, 6)])
    parts = gradients([slice(a, b) for a, b in pairwise(shares)])
    for one, other in zip(whole, parts, strict=True):
        assert float((one - other).norm() / one.norm()) <= 1e-9


def test_mistake_14_what_belongs_together_is_no_negative() -> None:
    vectors = unit(0, 3)
    vectors[1] = vectors[0]  # equal, so that counting it as a negative costs
    for right in (belongs([(1, 1), (1, 9), (2, 3)]), belongs([(1, 1), (2, 1), (3, 3)])):
        cost = {
            name: float(softmax_loss(rows(vectors, vectors, right), torch.tensor(50.0), name))
            for name in ("share", "ignore", "diagonal")
        }
        assert cost["ignore"] < 0.01 < cost["diagonal"]
        assert cost["share"] == pytest.approx(math.log(2) * 2 / 3, rel=0.01)  # two share the top


@pytest.mark.parametrize(
    "pairs",
    [
        [(1, 1), (1, 2), (2, 3), (3, 4), (3, 5), (3, 6)],
        [(1, 1), (2, 1), (3, 2), (4, 3), (5, 3), (6, 3)],
    ],
    ids=["captions of a picture", "pictures of a caption"],
)
def test_of_copies_in_a_batch_sharing_and_the_diagonal_learn_the_same(
    pairs: list[tuple[int, int]],
) -> None:
    """Their losses differ by a constant. What differs is what belongs together without a row of
    its own: a caption of two pictures, beside another caption of one of them."""

    def gradient(pairs: list[tuple[int, int]], true: set[tuple[int, int]], kind: str) -> Any:
        of_image, of_text = (sorted({pair[side] for pair in pairs}) for side in (0, 1))
        image, text = unit(0, len(of_image)), unit(1, len(of_text))
        image, text = image.requires_grad_(), text.requires_grad_()
        right = [[(i, j) in true for _, j in pairs] for i, _ in pairs]
        given = (
            image[[of_image.index(i) for i, _ in pairs]],
            text[[of_text.index(j) for _, j in pairs]],
        )
        loss = softmax_loss(rows(*given, right), torch.tensor(7.5).double(), kind)
        return torch.cat([each.flatten() for each in torch.autograd.grad(loss, (image, text))])

    def apart(true: set[tuple[int, int]]) -> float:
        one, other = (gradient(pairs, true, kind) for kind in ("share", "diagonal"))
        return float((one - other).norm() / other.norm())

    assert apart(set(pairs)) < 1e-12
    assert apart({*pairs, (2, 2), (4, 1), (1, 3)}) > 0.01


def test_half_precision_is_taken_in_float32() -> None:
    image, text = unit(0, 5).bfloat16(), unit(1, 5).bfloat16()
    right = belongs([(i, i + 10) for i in range(5)])
    expected = softmax_loss(rows(image.float(), text.float(), right), torch.tensor(100.0))
    found = softmax_loss(rows(image, text, right), torch.tensor(100.0).half())
    assert found == expected
    assert found.dtype == torch.float32


def test_a_teacher_of_the_same_opinion_teaches_nothing() -> None:
    right = belongs(PAIRS["all apart"])
    image, text = unit(0, 6).requires_grad_(), unit(1, 6).requires_grad_()
    same = rows(image.detach(), text.detach(), right)
    scale = torch.tensor(7.5).double().requires_grad_()
    distillation_loss(rows(image, text, right), scale, same, 7.5).backward()
    for leaf in (image, text, scale):
        assert leaf.grad is not None
        assert float(leaf.grad.abs().max()) < 1e-12


def slow_hits(image: list[list[float]], text: list[list[float]]) -> tuple[int, int]:
    """As Chinese-CLIP counts them: the most similar one is that of the own row."""

    def best(one: list[float], others: list[list[float]]) -> int:
        found = [sum(a * b for a, b in zip(one, each, strict=True)) for each in others]
        return found.index(max(found))

    return (
        sum(best(one, text) == row for row, one in enumerate(image)),
        sum(best(one, image) == row for row, one in enumerate(text)),
    )


def test_a_hit_is_the_own_row_whatever_else_belongs() -> None:
    right = belongs([(1, 1), (1, 9), (2, 3)])
    vectors = torch.eye(3).double()
    assert hits(rows(vectors, vectors, right)) == (3, 3)
    turned = vectors[[1, 0, 2]]  # the captions of one picture, each like the other's row
    assert hits(rows(vectors, turned, right)) == (1, 1)


@pytest.mark.parametrize("shares", [[0, 6], [0, 3, 6], [0, 1, 1, 4, 6]])
def test_hits_of_shares_are_those_of_the_whole(shares: list[int]) -> None:
    right = belongs(PAIRS["two captions of a picture"])
    image = unit(0, 6)
    text = torch.nn.functional.normalize(image[[0, 1, 2, 4, 3, 5]] + 0.5 * unit(1, 6), dim=1)
    parts = [hits(rows(image, text, right, slice(a, b))) for a, b in pairwise(shares)]
    expected = slow_hits(image.tolist(), text.tolist())
    assert tuple(map(sum, zip(*parts, strict=True))) == expected
    assert 0 < sum(expected) < 12


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_chance_is_the_loss_where_everything_is_equally_similar(size: int) -> None:
    alike = torch.ones(size, 1).double()
    given = rows(alike, alike, belongs([(i + 10, i + 10) for i in range(size)]))
    scale = torch.tensor(7.5).double()
    assert float(softmax_loss(given, scale)) == pytest.approx(chance(size), abs=1e-12)
    taught = distillation_loss(given, scale, given, 9.0)
    assert float(taught) == pytest.approx(chance(size), abs=1e-12)
    if size > 1:  # a right answer in B: the best bias gives it the probability 1/B
        bias = torch.tensor(-7.5 - math.log(size - 1)).double()
        found = float(sigmoid_loss(given, scale, bias))
        assert found == pytest.approx(chance(size, "sigmoid"), rel=1e-12)
        assert found < float(sigmoid_loss(given, scale, bias + 0.1))
