"""JSON in the style of Flickr8K-CN, one list, and JSONL, one object a line: the same entries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wentu.captions import json_stream
from wentu.captions.rows import (
    Row,
    clean_image,
    clean_texts,
    fields_by_words,
    position,
    reading,
    split_of,
    split_word,
    whole,
)
from wentu.captions.text import lines_of
from wentu.errors import FormatError


def read_list(path: Path) -> Iterator[Row]:
    """Rows of ``[{"image": …, "caption": […]}, …]``."""
    split = split_of(path)
    try:
        with reading(path):
            for number, entry in enumerate(json_stream.entries(path), 1):
                if entry is json_stream.NO_LIST:
                    raise FormatError(
                        f'{path}: expected a list of {{"image": …, "caption": […]}}.',
                        f'{path}：应为 {{"image": …, "caption": […]}} 的列表。',
                    )
                yield row_of(entry, position(path, "entry", number), split)
    except (ValueError, RecursionError) as error:  # digits without end, brackets without end
        raise FormatError(
            f"{path} is not valid JSON: {error}.", f"{path} 不是合法的 JSON：{error}。"
        ) from None


def read_lines(path: Path) -> Iterator[Row]:
    """Rows of a file with one object a line; empty lines are passed over."""
    split = split_of(path)
    for number, line in enumerate(lines_of(path), 1):
        if line.strip():
            where = position(path, "line", number)
            yield row_of(parse_line(line, where), where, split)


def parse_line(line: str, where: str) -> Any:
    """The value of one line of JSONL."""
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise FormatError(
            f"{where}: not valid JSON: {error.msg} at column {error.colno}.",
            f"{where}：不是合法的 JSON：第 {error.colno} 列：{error.msg}。",
        ) from None
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"{where}: not valid JSON: {error}.", f"{where}：不是合法的 JSON：{error}。"
        ) from None


def row_of(entry: Any, where: str, split: str | None) -> Row:
    """One entry, whose keys may have any of the names that columns of a table may have."""
    keys = tuple(entry) if isinstance(entry, dict) else ()
    found = fields_by_words(keys)
    image = entry[keys[found.picture]] if found.picture is not None else None
    said = [entry[keys[at]] for at in found.captions]
    if not isinstance(image, str) or not said or not all(isinstance(s, (str, list)) for s in said):
        raise FormatError(
            f'{where}: expected "image" (text) and "caption" (a text, or a list of texts).',
            f"{where}：应含 image(文本)和 caption(文本或文本列表)。",
        )
    texts = [text for each in said for text in ([each] if isinstance(each, str) else each)]
    own = entry[keys[found.own_id]] if found.own_id is not None else ""
    named = entry[keys[found.split]] if found.split is not None else None
    return Row(
        image=clean_image(image),
        captions=clean_texts(texts),
        split=(split_word(named, where) if isinstance(named, str) else None) or split,
        where=where,
        own_id=whole(str(own)).strip() if isinstance(own, (str, int)) else "",
    )
