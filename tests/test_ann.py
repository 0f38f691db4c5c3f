"""Searching one index or several gives the same as looking at every vector."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from wentu import ann, formats
from wentu.ann import Compressed, Effort, Part, compressed, files, tuning
from wentu.ann.turns import Turns
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


# --- compressed indexes -----------------------------------------------------------------------

DIMENSION = 32


@pytest.fixture(scope="module")
def gallery() -> Vectors:
    """3,000 vectors in a cone, some of them alike."""
    rng = np.random.default_rng(1)
    topics = unit(rng, 40, DIMENSION)[rng.integers(0, 40, 3000)]
    vectors = 0.6 * topics + 0.7 * unit(rng, 3000, DIMENSION) + 0.5
    vectors[::100] = vectors[7]  # thirty equal ones
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


@pytest.fixture(scope="module")
def codes(gallery: Vectors) -> Any:
    return compressed.trained(gallery)


def whole(codes: Any, gallery: Vectors, ids: Ids, dead: set[int], depth: int = 300) -> Part:
    """A part that looks through all lists."""
    index = Compressed(codes, gallery, Effort(probes=4096, depth=depth))
    return Part(index=index, ids=ids, dead=frozenset(dead))


@pytest.mark.parametrize("k", [1, 10, 40])
@pytest.mark.parametrize("deleted", [0, 20, 1500, 2995])
def test_compressed_finds_what_brute_force_finds(
    codes: Any, gallery: Vectors, k: int, deleted: int
) -> None:
    rng = np.random.default_rng(deleted)
    ids = drawn_ids(rng, len(gallery))
    dead = set(rng.choice(ids, deleted, replace=False).tolist())
    queries = np.concatenate([gallery[[7, 11]], unit(rng, 2, DIMENSION)])
    scores, found = ann.search([whole(codes, gallery, ids, dead)], queries, k)
    assert scores.shape == found.shape == (4, min(k, len(gallery) - deleted))
    for row, query in enumerate(queries):
        expected = slow_search(gallery, ids, query, k, dead)
        np.testing.assert_allclose(scores[row], [score for score, _ in expected], atol=1e-6)
        assert not dead & set(found[row].tolist())
        assert len(set(found[row].tolist())) == len(expected)


def test_equal_vectors_are_ordered_by_id_in_a_compressed_index(
    codes: Any, gallery: Vectors
) -> None:
    ids = drawn_ids(np.random.default_rng(3), len(gallery))
    equal = sorted([*ids[::100].tolist(), int(ids[7])])
    for k in (1, 5, 31):
        _, found = ann.search([whole(codes, gallery, ids, set(), depth=50)], gallery[7:8], k)
        assert found[0].tolist() == equal[:k]


def test_more_than_the_lists_hold_is_found_by_brute_force(codes: Any, gallery: Vectors) -> None:
    index = Compressed(codes, gallery, Effort(probes=1, depth=1))
    for k in (60, 3000):
        scores, rows = index.search(gallery[:2], k)
        expected = np.sort(gallery[:2] @ gallery.T, axis=1)[:, ::-1][:, :k]
        np.testing.assert_allclose(scores, expected, atol=1e-6)
        assert len(set(rows[0].tolist())) == k


def test_a_compressed_and_an_exact_part_are_one_gallery(
    codes: Any, gallery: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressed, "EXACT_BELOW", 1)
    rng = np.random.default_rng(4)
    more, ids = unit(rng, 50, DIMENSION) + 0.3, drawn_ids(rng, 3050)
    more = np.asarray(more / np.linalg.norm(more, axis=1, keepdims=True), np.float32)
    parts = [
        whole(codes, gallery, ids[:3000], {int(ids[11])}, depth=2800),
        Part(index=ann.build(more), ids=ids[3000:]),
    ]
    queries = np.concatenate([gallery[11:12], more[:2]])
    _, found = ann.search(parts, queries, 10)
    for row, query in enumerate(queries):
        both = slow_search(np.concatenate([gallery, more]), ids, query, 10, {int(ids[11])})
        assert set(found[row].tolist()) == {each for _, each in both}


def test_a_score_is_the_same_to_the_bit_however_many_are_asked_for(
    codes: Any, gallery: Vectors
) -> None:
    part = whole(codes, gallery, np.arange(3000), set(), depth=100)
    asked = [ann.search([part], gallery[20:21], k) for k in (10, 17, 70, 3000)]
    every = dict(zip(asked[-1][1][0].tolist(), asked[-1][0][0].tolist(), strict=True))
    assert len(every) == 3000
    for scores, ids in asked:
        assert scores[0].tolist() == [every[each] for each in ids[0].tolist()]


def test_the_kind_follows_the_size(
    gallery: Vectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "小").mkdir()
    small = ann.make(gallery[:500], tmp_path / "小")
    assert (small.kind, small.recall_at_10) == (ann.EXACT, 1.0)
    assert [path.name for path in (tmp_path / "小").iterdir()] == ["index.faiss"]
    monkeypatch.setattr(files, "EXACT_UP_TO", 2000)
    folder = tmp_path / "大 😀"
    folder.mkdir()
    made = ann.make(gallery, folder, least=0.9)
    assert made.kind == ann.COMPRESSED
    assert min(made.recall_pictures, made.recall_text_like) == made.recall_at_10 >= 0.9
    assert ann.quality_of(folder) == made
    np.save(folder / "vectors.npy", gallery)
    opened = ann.open_index(folder, np.load(folder / "vectors.npy", mmap_mode="r"))
    assert opened.effort.depth in tuning.DEPTHS
    assert (opened.ntotal, opened.d) == gallery.shape
    rows = np.array([20, 1000, 2999])
    assert opened.search(gallery[rows], 1)[1][:, 0].tolist() == [20, 0, 2999]


def test_where_codes_do_not_find_enough_the_index_is_exact(
    gallery: Vectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "EXACT_UP_TO", 2000)
    monkeypatch.setattr(tuning, "DEPTHS", (10,))
    notes: list[str] = []
    made = ann.make(gallery, tmp_path, least=1.0, note=notes.append)
    assert (made.kind, made.recall_at_10) == (ann.EXACT, 1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["index.faiss"]
    assert "--min-recall 1.0" in notes[-1]


def test_recall_is_low_where_too_little_is_looked_at(codes: Any, gallery: Vectors) -> None:
    _, proving = tuning.questions(gallery)
    lazy = Compressed(codes, gallery, Effort(probes=1, depth=1))
    able = Compressed(codes, gallery, Effort(probes=4096, depth=300))
    assert min(tuning.prove(able, proving)) > 0.97  # of 16 bytes each
    assert max(tuning.prove(lazy, proving)) < 0.9


@pytest.mark.parametrize(
    "text", ["[]", '{"format": 1}', '{"format": 2, "kind": "compressed"}', "{"]
)
def test_settings_that_are_none_are_refused(
    codes: Any, gallery: Vectors, tmp_path: Path, text: str
) -> None:
    ann.write_index(codes, tmp_path / "index.faiss")
    (tmp_path / "index.json").write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=r"index\.json"):
        ann.open_index(tmp_path, gallery)


def test_settings_beside_an_exact_index_are_refused(gallery: Vectors, tmp_path: Path) -> None:
    ann.write_index(ann.build(gallery), tmp_path / "index.faiss")
    value = {"kind": "compressed", "recall_at_10": 1, "recall_pictures": 1, "recall_text_like": 1}
    formats.write_json(tmp_path / "index.json", value | {"format": 2, "probes": 1, "depth": 1})
    with pytest.raises(FormatError, match="do not fit each other"):
        ann.open_index(tmp_path, gallery)


def test_searches_take_turns_and_one_alone_has_all_cores() -> None:
    turns = Turns(2)
    inside, most, alone = 0, 0, []
    lock = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        with turns.turn() as threads:
            with lock:
                inside += 1
                most = max(most, inside)
                if inside == 2:
                    alone.append(threads)
            time.sleep(0.01)
            with lock:
                inside -= 1

    with turns.turn() as threads:
        assert threads == 2
    with ThreadPoolExecutor(8) as pool:
        for each in [pool.submit(work) for _ in range(24)]:
            each.result()
    assert most == 2
    assert 1 in alone


def test_many_threads_find_the_same_as_one(codes: Any, gallery: Vectors) -> None:
    part = whole(codes, gallery, np.arange(3000), set())
    expected = [ann.search([part], gallery[row : row + 1], 5) for row in range(40)]
    with ThreadPoolExecutor(8) as pool:
        found = [pool.submit(ann.search, [part], gallery[row : row + 1], 5) for row in range(40)]
        for each, (scores, ids) in zip(found, expected, strict=True):
            assert np.array_equal(each.result()[1], ids)
            assert np.array_equal(each.result()[0], scores)
