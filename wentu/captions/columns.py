"""Which column of a table is what: by the words of its header, else by what stands in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wentu.captions.rows import fields_by_words, is_picture
from wentu.captions.words import SPLIT_WORDS, word
from wentu.errors import InputError
from wentu.language import pick

SAMPLE = 50
"""Rows that are looked at to decide."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the user said: ``--picture-column`` and ``--caption-column``, '' to guess.

    A column is the name in its header or its number from 1; captions may be several: ``3,4``.
    """

    picture: str = ""
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What was decided."""

    header: tuple[str, ...]
    """Names of the columns; empty where the first row is a picture's already."""
    width: int
    picture: int
    captions: tuple[int, ...]
    split: int | None
    own_id: int | None

    def __str__(self) -> str:
        def named(at: int) -> str:
            name = self.header[at].strip() if at < len(self.header) else ""
            return name or pick(f"column {at + 1}", f"第 {at + 1} 列")

        captions = pick(" and ", "、").join(named(at) for at in self.captions)
        parts = [
            (pick("picture", "图片"), named(self.picture)),
            (pick("caption", "描述"), captions),
        ]
        if self.split is not None:
            parts.append((pick("split", "划分"), named(self.split)))
        if self.own_id is not None:
            parts.append((pick("id", "编号"), named(self.own_id)))
        told = pick(", ", "，").join(f"{name} = {value}" for name, value in parts)
        return told + ("" if self.header else pick(" (no header)", "(无表头)"))


def decide(rows: Sequence[Sequence[str]], choice: Choice) -> Columns | None:
    """What the columns of a table are, from its first rows; None where it cannot be told."""
    header = tuple(rows[0]) if _has_header(rows, choice) else ()
    # A comma in the last text of a row that nobody quoted makes that row wider, not the table.
    width = len(header) or Counter(map(len, rows)).most_common(1)[0][0]
    columns = _columns(rows[1:] if header else rows, width)
    found = fields_by_words(header)
    if choice.picture:
        pictures = _chosen(choice.picture, header, width)
    elif found.picture is not None:
        pictures = (found.picture,)
    else:
        pictures = tuple(at for at in range(width) if _hold(columns[at], is_picture))
    if len(pictures) != 1:
        return None
    split, own_id = found.split, found.own_id
    if not header:
        split = next((at for at in range(width) if _hold(columns[at], _is_split)), None)
    captions = _chosen(choice.caption, header, width) if choice.caption else found.captions
    if not captions and not choice.caption:  # the only column of texts that is left
        left = set(range(width)) - {pictures[0], split, own_id}
        texts = [at for at in sorted(left) if _may_be_text(at, header, columns[at])]
        captions = tuple(texts) if len(texts) == 1 else ()
    if not captions or pictures[0] in captions:
        return None
    taken = {pictures[0], *captions}
    return Columns(
        header=header,
        width=width,
        picture=pictures[0],
        captions=captions,
        split=None if split in taken else split,
        own_id=None if own_id in taken else own_id,
    )


def undecided(path: Path, first: Sequence[str], choice: Choice) -> InputError:
    """The sentence of a table whose columns nobody can tell."""
    shown = [f"{number} {cell.strip()[:20]}" for number, cell in enumerate(first[:20], 1)]
    asked = " ".join(
        f"--{name}-column {value}"
        for name, value in (("picture", choice.picture), ("caption", choice.caption))
        if value
    )
    given, given_zh = (f" with {asked}", f"(已给出 {asked})") if asked else ("", "")
    return InputError(
        f"{path.name}: which column names the picture and which holds the caption cannot be told"
        f"{given}; its columns: {', '.join(shown)}. Say so with --picture-column and "
        "--caption-column, by name or by number.",
        f"{path.name}：无法判断哪一列是图片、哪一列是描述{given_zh}；其各列为：{'，'.join(shown)}。"
        "请用 --picture-column 与 --caption-column 指定列名或列号。",
    )


def _has_header(rows: Sequence[Sequence[str]], choice: Choice) -> bool:
    first = tuple(rows[0])
    if any(is_picture(cell) for cell in first):
        return False
    found = fields_by_words(first)
    named = {word(cell) for cell in first} & {word(choice.picture), word(choice.caption)} - {""}
    if found.picture is not None or found.captions or named:
        return True
    return any(_hold(column, is_picture) for column in _columns(rows[1:], len(first)))


def _columns(rows: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """What is not empty in each column."""
    cells = ([row[at].strip() for row in rows if at < len(row)] for at in range(width))
    return [[cell for cell in column if cell] for column in cells]


def _hold(column: list[str], test: Callable[[str], bool]) -> bool:
    """Does nearly all of a column pass?"""
    return bool(column) and sum(map(test, column)) >= 0.9 * len(column)


def _is_split(cell: str) -> bool:
    return word(cell) in SPLIT_WORDS


def _may_be_text(at: int, header: tuple[str, ...], column: list[str]) -> bool:
    named = bool(header[at].strip()) if header else bool(column)
    return named and not _hold(column, str.isdecimal)


def _chosen(asked: str, header: tuple[str, ...], width: int) -> tuple[int, ...]:
    """Columns that the user named; empty where there is no such."""
    names = [name.strip() for name in header]
    words = [word(name) for name in names]

    def find(each: str) -> int | None:
        if each in names:
            return names.index(each)
        if word(each) in words and word(each):
            return words.index(word(each))
        number = int(each) if each.isdecimal() and len(each) < 6 else 0
        return number - 1 if 1 <= number <= width else None

    asked = asked.strip()
    found = [find(asked)]
    if found == [None]:
        found = [find(part.strip()) for part in asked.split(",")]
    known = [at for at in found if at is not None]
    return tuple(known) if len(known) == len(found) else ()
