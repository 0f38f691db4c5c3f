"""Captions as users have them -> one stream of (picture, captions, split).

Read here: JSON in the style of Flickr8K-CN and JSONL (``json_files``), CSV, TSV and XLSX whatever
their columns are called (``tables``, ``sheets``), Chinese-CLIP's TSV + JSONL (``clip_files``), and
names of files or folders (``names``). A reader is a generator of ``Row``; memory does not grow with
the file.
"""

from __future__ import annotations

from collections.abc import Iterator

from wentu.captions import clip_files, json_files, sheets, tables
from wentu.captions.columns import Choice
from wentu.captions.finder import Finder
from wentu.captions.names import NameCaptions, of_names
from wentu.captions.places import NO_FILES, caption_files, clip_pair, expand, kind_of
from wentu.captions.rows import Row, split_of
from wentu.language import pick

__all__ = [
    "NO_FILES",
    "Finder",
    "NameCaptions",
    "Row",
    "caption_files",
    "describe",
    "expand",
    "of_names",
    "read",
    "split_of",
]


def read(captions: str, *, picture_column: str = "", caption_column: str = "") -> Iterator[Row]:
    """Every row of the files that ``captions`` names (not for ``names``, ``folder``, ``none``).

    Args:
        picture_column, caption_column: of tables; a name or a number from 1, '' to guess.
    """
    choice = Choice(picture=picture_column, caption=caption_column)
    for path in caption_files(captions):
        match kind_of(path):
            case "json":
                yield from json_files.read_list(path)
            case "jsonl":
                yield from json_files.read_lines(path)
            case "table":
                yield from tables.read_text_table(path, choice)
            case "sheet":
                yield from sheets.read_sheet(path, choice)
            case "clip":
                tsv, jsonl = clip_pair(path)
                if path == jsonl:  # once per pair
                    yield from clip_files.read_clip(tsv, jsonl)


def describe(captions: str, *, picture_column: str = "", caption_column: str = "") -> list[str]:
    """A sentence per file on how it is read, as ``read`` will read it."""
    choice = Choice(picture=picture_column, caption=caption_column)
    told: list[str] = []
    for path in caption_files(captions):
        match kind_of(path):
            case "table":
                how = tables.describe_text_table(path, choice)
            case "sheet":
                how = sheets.describe_sheet(path, choice)
            case "clip":
                tsv, _ = clip_pair(path)
                if path == tsv:
                    continue
                how = pick(f"Chinese-CLIP, with {tsv.name}", f"Chinese-CLIP，与 {tsv.name} 一起")
            case kind:
                how = kind.upper()
        split = split_of(path)
        if split:
            how += pick(f"; split {split}", f"；划分 {split}")
        told.append(f"{path.name}{pick(': ', '：')}{how}")
    return told
