"""Searching one index or several gives the same as looking at every vector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from wentu import ann
from wentu.ann import Part
from wentu.errors import FormatError

Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


def unit(rng: np.random.Generator, count: int, dimension: int = 8) -> Vectors:
    vectors = rng.standard_normal((count, dimension))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def drawn_ids(rng: np.random.Generator, count: int) -> Ids:
    """Distinct ids up to 63 bits."""
    return np.unique(rng.integers(0, 2**63 - 1, 2 * count))[rng.permutation(count)]


def split(
    vectors: Vectors, ids: Ids, rng: np.random.Generator, parts: int, dead: set[int]
) -> list[Part]:
    """Rows dealt to ``parts`` segments."""
    dealt = rng.integers(parts, size=len(ids))
    return [
        Part(
            index=ann.build(vectors[dealt == part]),
            ids=ids[dealt == part],
            dead=frozenset(dead & set(ids[dealt == part].tolist())),
        )
        for part in range(parts)
    ]


def slow_search(
    vectors: Vectors, ids: Ids, query: Vectors, k: int, dead: set[int]
) -> list[tuple[float, int]]:
    """Every vector that counts, by falling score, then by id."""
    found = [
        (float(query @ vector), int(each))
        for vector, each in zip(vectors, ids, strict=True)
        if int(each) not in dead
    ]
    return sorted(found, key=lambda pair: (-pair[0], pair[1]))[:k]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("k", [1, 7, 100])
def test_finds_what_looking_at_every_vector_finds(seed: int, parts: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, ids, queries = unit(rng, 60), drawn_ids(rng, 60), unit(rng, 4)
    dead = set(rng.choice(ids, 10).tolist())
    scores, found = ann.search(split(vectors, ids, rng, parts, dead), queries, k)
    for row, query in enumerate(queries):
        expected = slow_search(vectors, ids, query, k, dead)
        assert found[row].tolist() == [each for _, each in expected]
        np.testing.assert_allclose(scores[row], [score for score, _ in expected], atol=1e-6)


def test_mistake_11_fewer_pictures_than_asked_for() -> None:
    rng = np.random.default_rng(0)
    vectors = unit(rng, 3)
    part = Part(index=ann.build(vectors), ids=np.array([5, 6, 7]), dead=frozenset([6]))
    scores, ids = ann.search([part], vectors[:1], 10)
    assert scores.shape == ids.shape == (1, 2)
    assert ids[0, 0] == 5
    assert set(ids[0]) == {5, 7}


@pytest.mark.parametrize("dead", [frozenset[int](), frozenset([1, 2])])
def test_nothing_that_counts_gives_no_result(dead: frozenset[int]) -> None:
    vectors = unit(np.random.default_rng(0), 2)
    rows = 2 if dead else 0
    part = Part(index=ann.build(vectors[:rows]), ids=np.array([1, 2][:rows]), dead=dead)
    for parts in ([part], [part, part], []):
        scores, ids = ann.search(parts, vectors, 5)
        assert scores.shape == ids.shape == (2, 0)


def test_what_was_deleted_is_not_found_and_what_replaced_it_is() -> None:
    vectors = np.eye(4, dtype=np.float32)
    old = Part(index=ann.build(vectors[:2]), ids=np.array([1, 2]), dead=frozenset([1]))
    new = Part(index=ann.build(vectors[2:3]), ids=np.array([1]))
    scores, ids = ann.search([old, new], vectors[2:3], 4)
    assert ids.tolist() == [[1, 2]]
    assert scores.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("k", [24, 5, 12])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_equal_scores_are_ordered_by_id_however_rows_are_spread(k: int, parts: int) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        vectors = np.eye(3, dtype=np.float32)[rng.integers(0, 2, 24)]
        ids, query = drawn_ids(rng, 24), np.array([[0.6, 0.8, 0.0]], np.float32)
        expected = slow_search(vectors, ids, query[0], k, set())
        _, found = ann.search(split(vectors, ids, rng, parts, set()), query, k)
        assert found[0].tolist() == [each for _, each in expected], seed


def test_an_index_comes_back_from_any_path(tmp_path: Path) -> None:
    vectors = unit(np.random.default_rng(0), 20)
    path = tmp_path / "索引 😀" / "index.faiss"
    ann.write_index(ann.build(vectors), path)
    scores, rows = ann.read_index(path).search(vectors[:3], 1)
    assert rows[:, 0].tolist() == [0, 1, 2]
    np.testing.assert_allclose(scores[:, 0], 1, atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"abc", b"IxFI" + b"\x00" * 10])
def test_a_file_that_is_no_index_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "index.faiss"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"index\.faiss is no FAISS index"):
        ann.read_index(path)


@pytest.mark.parametrize("count", [1, 5, 300])
def test_an_exact_index_has_recall_1(count: int) -> None:
    vectors = unit(np.random.default_rng(0), count)
    assert ann.exact_recall(ann.build(vectors), vectors) == 1.0


def test_equal_vectors_are_no_misses() -> None:
    vectors = np.repeat(np.eye(2, dtype=np.float32), 30, axis=0)
    assert ann.exact_recall(ann.build(vectors), vectors) == 1.0


def test_an_index_that_lost_most_vectors_has_low_recall() -> None:
    vectors = unit(np.random.default_rng(0), 300)
    broken = ann.build(np.where(np.arange(300)[:, None] % 4 == 0, vectors, 0))
    assert 0.1 < ann.exact_recall(broken, vectors) < 0.5
