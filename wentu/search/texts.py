"""The vectors of texts: those searched for last are remembered, those that wait share a model call.

A text that finds the model idle waits for nobody. While the model runs, texts gather, and go
together when it is free: a call of eight costs little more than one. There is no thread for it:
whoever finds the model idle runs it, and at the end hands it on to the first of those that wait.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from typing import Protocol

from wentu.clip.bundle import Features

REMEMBERED = 4096
"""Texts whose vectors are kept: 8 MB of 512 numbers each."""
MOST_AT_ONCE = 32
"""Texts in one call: beyond it a call only grows longer."""
LONGER, SHORT = 1.5, 8
"""Characters by which a text may be longer than the shortest in its call: a factor, and so many."""


class Encodes(Protocol):
    """What embeds texts: a bundle."""

    def encode_text(self, texts: Sequence[str]) -> Features:
        """L2-normalised [N, D] of N texts."""


class _Wanted:
    """A text that somebody, or several, wait for."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.woken = threading.Event()
        """It is embedded, or it is its turn to run the model."""
        self.vector: Features | None = None
        self.error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.vector is not None or self.error is not None


class TextVectors:
    """Embeds texts; safe to share between threads.

    Attributes:
        hits: texts that were known. misses: texts that were not, also where another query asked
            for the same one meanwhile. sizes: number of texts in a call -> calls.

    Args:
        room: how many are remembered.
    """

    def __init__(self, bundle: Encodes, room: int = REMEMBERED) -> None:
        self._bundle, self._room = bundle, room
        self._known: OrderedDict[str, Features] = OrderedDict()
        self._asked: dict[str, _Wanted] = {}
        self._waiting: list[_Wanted] = []
        self._running = False
        self._lock = threading.Lock()
        self.hits = self.misses = 0
        self.sizes: Counter[int] = Counter()

    def of(self, text: str) -> Features:
        """L2-normalised [D]; raises what the model raises on this text, whoever else waits."""
        with self._lock:
            found = self._known.get(text)
            if found is not None:
                self._known.move_to_end(text)
                self.hits += 1
                return found
            self.misses += 1
            wanted = self._asked.get(text)
            if wanted is None:
                wanted = self._asked[text] = _Wanted(text)
                self._waiting.append(wanted)
            mine = not self._running
            self._running = True
        if not mine:
            wanted.woken.wait()
        if not wanted.done:
            self._run()
        if wanted.error is not None:
            raise wanted.error
        assert wanted.vector is not None
        return wanted.vector

    def _run(self) -> None:
        """Embed the first of what waits, and hand the model on."""
        with self._lock:
            batch = self._waiting[:MOST_AT_ONCE]
            del self._waiting[:MOST_AT_ONCE]
        try:
            for group in alike(batch):
                self._embed(group)
        finally:
            with self._lock:
                for each in batch:
                    del self._asked[each.text]
                    if each.vector is not None:
                        self._known[each.text] = each.vector
                while len(self._known) > self._room:
                    self._known.popitem(last=False)
                following = self._waiting[0] if self._waiting else None
                self._running = following is not None
            for each in batch:
                each.woken.set()
            if following is not None:
                following.woken.set()

    def _embed(self, batch: Sequence[_Wanted]) -> None:
        """Together; where that fails each by itself, so that an error is told to its query only."""
        try:
            vectors = self._bundle.encode_text([each.text for each in batch])
            self.sizes[len(batch)] += 1
        except Exception as error:
            if len(batch) == 1:
                batch[0].error = error
                return
            for each in batch:
                self._embed([each])
            return
        for each, vector in zip(batch, vectors, strict=True):
            each.vector = vector


def alike(batch: Sequence[_Wanted]) -> Iterator[list[_Wanted]]:
    """Texts by length, in groups in which little is filled up: at most half as long again."""
    group: list[_Wanted] = []
    for each in sorted(batch, key=lambda wanted: len(wanted.text)):
        if group and len(each.text) > LONGER * len(group[0].text) + SHORT:
            yield group
            group = []
        group.append(each)
    yield group
