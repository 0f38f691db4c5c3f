"""The entries of one JSON list, one at a time: memory does not grow with the file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from wentu.formats import read_json

WINDOW = 1 << 16
"""Characters read at once; a larger entry doubles it until it fits."""
NO_LIST = object()
_SPACE = re.compile(r"[ \t\r\n]*")


class _Broken(Exception):
    """What was read so far is no list; the whole file is asked for the reason."""


def entries(path: Path) -> Iterator[Any]:
    """The list's entries; what is no JSON list is read whole, for ``read_json``'s sentence.

    Yields NO_LIST instead, once, where the file is valid JSON and no list.
    """
    done = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            for entry in _stream(file):
                done += 1
                yield entry
        return
    except (_Broken, UnicodeDecodeError):
        pass
    value = read_json(path)
    yield from value[done:] if isinstance(value, list) else (NO_LIST,)


def _stream(file: TextIO) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    text, at = file.read(WINDOW), 0
    size = WINDOW

    def sign() -> str:
        """The next sign that is no space, reading on if need be."""
        nonlocal text, at
        while True:
            at = _skip(text, at)
            if at < len(text):
                return text[at]
            more = file.read(WINDOW)
            if not more:
                raise _Broken
            text, at = more, 0

    if sign() != "[":
        raise _Broken
    at += 1
    if sign() == "]":
        at += 1
        return _ends(file, text, at)
    while True:
        sign()
        try:
            entry, end = decoder.raw_decode(text, at)
            end = _skip(text, end)
            following = text[end : end + 1]
            if following not in (",", "]"):  # "1e" of 1e+16 is a number too: read on
                raise ValueError
        except ValueError:
            more = file.read(size)
            if not more:
                raise _Broken from None
            text, at, size = text[at:] + more, 0, 2 * size
            continue
        at, size = end + 1, WINDOW
        yield entry
        if following == "]":
            return _ends(file, text, at)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _ends(file: TextIO, text: str, at: int) -> None:
    """Nothing but white space may follow the list."""
    while _skip(text, at) == len(text):
        text, at = file.read(WINDOW), 0
        if not text:
            return
    raise _Broken
