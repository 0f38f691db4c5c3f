"""The vectors of texts: those searched for last are remembered, those that wait share a model call.

A text that finds the model idle waits for nobody. While the model runs, texts gather, and go
together when it is free: a call of eight costs little more than one. There is no thread for it:
whoever finds the model idle runs it, for all that wait.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from wentu.clip.bundle import Features
from wentu.formats import batched

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

    def __init__(self, text: str, vector: Features | None = None) -> None:
        self.text = text
        self.vector = vector
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
        self._free = threading.Condition()
        """Of all that is shared; notified when the model is free again."""
        self.hits = self.misses = 0
        self.sizes: Counter[int] = Counter()

    def of(self, text: str) -> Features:
        """L2-normalised [D]; raises what the model raises on this text, whoever else waits."""
        return self._vector(self._want(text))

    def all(self, texts: Sequence[str]) -> Features:
        """L2-normalised [N, D] of many, a call at a time: what others ask goes between."""
        found = [
            self._vector(wanted)
            for part in batched(texts, MOST_AT_ONCE)
            for wanted in [self._want(text) for text in part]
        ]
        return np.stack(found)

    def _want(self, text: str) -> _Wanted:
        """A text that is known, or waits from now on."""
        with self._free:
            found = self._known.get(text)
            if found is not None:
                self._known.move_to_end(text)
                self.hits += 1
                return _Wanted(text, found)
            self.misses += 1
            wanted = self._asked.get(text)
            if wanted is None:
                wanted = self._asked[text] = _Wanted(text)
                self._waiting.append(wanted)
            return wanted

    def _vector(self, wanted: _Wanted) -> Features:
        while self._my_turn(wanted):
            self._run()  # the first of those that wait; this text may come in a later call
        if wanted.error is not None:
            raise wanted.error
        assert wanted.vector is not None
        return wanted.vector

    def _my_turn(self, wanted: _Wanted) -> bool:
        """Wait until a text is embedded, False, or the model is free, True: then it is taken."""
        with self._free:
            while self._running and not wanted.done:
                self._free.wait()
            if wanted.done:
                return False
            self._running = True
            return True

    def _run(self) -> None:
        """Embed the first of what waits, and let the model go."""
        with self._free:
            batch = self._waiting[:MOST_AT_ONCE]
            del self._waiting[:MOST_AT_ONCE]
        try:
            for group in alike(batch):
                self._embed(group)
        finally:
            with self._free:
                for each in batch:
                    del self._asked[each.text]
                    if each.vector is not None:
                        self._known[each.text] = each.vector
                    elif each.error is None:  # the one who ran it was interrupted
                        each.error = RuntimeError("the model was stopped")
                while len(self._known) > self._room:
                    self._known.popitem(last=False)
                self._running = False
                self._free.notify_all()

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
