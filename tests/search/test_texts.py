"""Texts that wait share a call of the model, and every query gets its own vector or error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from wentu.clip.bundle import Bundle, Features
from wentu.search.texts import MOST_AT_ONCE, TextVectors


class Watched:
    """A bundle whose calls can be held up and are written down."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.calls: list[list[str]] = []
        self.free = threading.Event()
        self.free.set()
        self.most = self._inside = 0
        self._lock = threading.Lock()

    def encode_text(self, texts: Sequence[str]) -> Features:
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)
            self.calls.append(list(texts))
        self.free.wait(10)
        try:
            if "坏" in texts:
                raise ValueError("a text that the model does not take")
            return self.bundle.encode_text(texts)
        finally:
            with self._lock:
                self._inside -= 1


@pytest.fixture
def watched(built: Any) -> Watched:
    return Watched(Bundle(built.bundle))


def together(
    watched: Watched, vectors: TextVectors, texts: Sequence[str]
) -> list[Features | Exception]:
    """What each text gets where the first holds the model up until all others wait."""

    def ask(text: str) -> Features | Exception:
        try:
            return vectors.of(text)
        except Exception as error:
            return error

    watched.free.clear()
    with ThreadPoolExecutor(len(texts)) as pool:
        asked = [pool.submit(ask, texts[0])]
        until(lambda: len(watched.calls) == 1)
        asked += [pool.submit(ask, text) for text in texts[1:]]
        until(lambda: vectors.misses == len(texts))
        watched.free.set()
        return [each.result(20) for each in asked]


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_texts_that_wait_go_together_and_get_what_they_would_get_alone(watched: Watched) -> None:
    texts = ["红色圆形", "蓝", "左上角的红色圆形,大号,白色底", "绿色三角形", "黄"]
    vectors = TextVectors(watched)
    found = together(watched, vectors, texts)
    for text, vector in zip(texts, found, strict=True):
        np.testing.assert_allclose(
            np.asarray(vector), watched.bundle.encode_text([text])[0], atol=1e-5
        )
    assert watched.calls[0] == ["红色圆形"]  # which waited for nobody
    assert sorted(watched.calls[1]) == sorted(texts[1:2] + texts[3:])
    assert watched.calls[2] == [texts[2]]  # much longer: filling the others up would cost more
    assert vectors.sizes == {1: 2, 3: 1}


def test_one_call_takes_so_many_and_the_next_the_rest(watched: Watched) -> None:
    texts = [f"红色{number:02}" for number in range(MOST_AT_ONCE + 9)]
    vectors = TextVectors(watched)
    found = together(watched, vectors, texts)
    expected = watched.bundle.encode_text(texts)
    np.testing.assert_allclose(np.stack([np.asarray(v) for v in found]), expected, atol=1e-5)
    assert [len(call) for call in watched.calls] == [1, MOST_AT_ONCE, 8]
    assert watched.most == 1


def test_an_error_reaches_only_its_own_query(watched: Watched) -> None:
    texts = ["红", "蓝", "坏", "绿"]
    vectors = TextVectors(watched)
    found = together(watched, vectors, texts)
    assert isinstance(found[2], ValueError)
    for number in (0, 1, 3):
        expected = watched.bundle.encode_text([texts[number]])[0]
        np.testing.assert_allclose(np.asarray(found[number]), expected, atol=1e-5)
    with pytest.raises(ValueError, match="does not take"):  # it is asked again, and again in vain
        vectors.of("坏")
    assert np.isfinite(vectors.of("黄")).all()


def test_the_same_text_is_embedded_once_for_all_that_ask(watched: Watched) -> None:
    vectors = TextVectors(watched)
    found = together(watched, vectors, ["红"] * 6)
    assert watched.calls == [["红"]]
    assert all(np.array_equal(np.asarray(each), np.asarray(found[0])) for each in found)
    assert (vectors.hits, vectors.misses) == (0, 6)
    vectors.of("红")
    assert (vectors.hits, len(watched.calls)) == (1, 1)


def test_several_who_wait_for_one_text_all_get_it(watched: Watched) -> None:
    """Not only of the text that the model is at: the model is handed on to one of them."""
    for _ in range(10):
        vectors = TextVectors(watched)
        watched.calls.clear()
        found = together(watched, vectors, ["红", *["蓝"] * 5, *["绿"] * 3])
        expected = watched.bundle.encode_text(["蓝", "绿"])
        for number, vector in enumerate(found[1:]):
            np.testing.assert_allclose(np.asarray(vector), expected[int(number >= 5)], atol=1e-5)
        assert sorted(vectors.sizes.items()) == [(1, 1), (2, 1)]
    assert watched.most == 1


def test_many_texts_let_others_go_between(watched: Watched) -> None:
    vectors = TextVectors(watched)
    many = [f"蓝色{number:02}" for number in range(MOST_AT_ONCE + 9)]
    watched.free.clear()
    with ThreadPoolExecutor(2) as pool:
        all_of_them = pool.submit(vectors.all, many)
        until(lambda: len(watched.calls) == 1)
        between = pool.submit(vectors.of, "红")
        until(lambda: vectors.misses == MOST_AT_ONCE + 1)
        watched.free.set()
        expected = watched.bundle.encode_text([*many, "红"])
        np.testing.assert_allclose(all_of_them.result(20), expected[:-1], atol=1e-5)
        np.testing.assert_allclose(between.result(20), expected[-1], atol=1e-5)
    assert [len(call) for call in watched.calls[:1]] == [MOST_AT_ONCE]
    assert any("红" in call for call in watched.calls[1:])
    before = len(watched.calls)
    vectors.all(many)
    assert len(watched.calls) == before, "they are remembered"


def test_what_was_not_asked_for_lately_is_forgotten(watched: Watched) -> None:
    vectors = TextVectors(watched, room=2)
    for text in ("红", "蓝", "红", "绿", "红", "蓝"):
        vectors.of(text)
    assert [call[0] for call in watched.calls] == ["红", "蓝", "绿", "蓝"]


def test_many_queries_at_once_all_get_their_own(watched: Watched) -> None:
    vectors = TextVectors(watched, room=8)
    texts = [f"{colour}{number}" for colour in "红蓝绿" for number in range(20)]
    expected = dict(zip(texts, watched.bundle.encode_text(texts), strict=True))
    with ThreadPoolExecutor(12) as pool:
        asked = [(text, pool.submit(vectors.of, text)) for text in texts * 5]
        for text, each in asked:
            np.testing.assert_allclose(each.result(30), expected[text], atol=1e-5)
    assert watched.most == 1
    assert len(watched.calls) < vectors.misses
