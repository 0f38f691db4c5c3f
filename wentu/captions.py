"""Captions as users have them -> one stream of (picture, captions, split).

Read here: JSON in the style of Flickr8K-CN (``[{"image": …, "caption": [...]}]``, either slash),
one file or several; ``names`` (the file name is the caption); ``none``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from wentu.errors import FormatError, InputError
from wentu.formats import read_json
from wentu.storage import local_path

SPLIT_WORDS = {"train": "train", "training": "train", "val": "valid", "valid": "valid"}
SPLIT_WORDS |= {"validation": "valid", "dev": "valid", "test": "test", "testing": "test"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the user said about one picture."""

    image: str
    """As written, with forward slashes."""
    captions: tuple[str, ...]
    split: str | None = None
    """train, valid or test where the user's files say so."""
    where: str = ""
    """File and position, for messages."""


def caption_files(captions: str) -> list[Path]:
    """The files that ``captions`` names, one a line; a folder means its JSON files."""
    files: list[Path] = []
    for place in captions.splitlines():
        path = local_path(place.strip())
        if path.is_dir():
            found = sorted(path.glob("*.json"))
            if not found:
                raise InputError(
                    f"--captions {path}: no .json file in that folder.",
                    f"--captions {path}：该目录中没有 .json 文件。",
                )
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(
                f"--captions {place}: no such file; give a captions JSON, names, or none.",
                f"--captions {place}：文件不存在；请给出描述 JSON、names 或 none。",
            )
    return files


def split_of(path: Path) -> str | None:
    """The split that a file's name states: ``cn_val.json`` is valid."""
    words = re.split(r"[^a-z]+", path.stem.lower())
    named = [SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS]
    return named[-1] if named else None


def read(captions: str) -> Iterator[Row]:
    """Every row of the captions that ``captions`` names (not for ``names`` and ``none``)."""
    for path in caption_files(captions):
        yield from _read_json(path)


def _read_json(path: Path) -> Iterator[Row]:
    rows = read_json(path)
    if not isinstance(rows, list):
        raise FormatError(
            f'{path}: expected a list of {{"image": …, "caption": […]}}.',
            f'{path}：应为 {{"image": …, "caption": […]}} 的列表。',
        )
    split = split_of(path)
    for number, row in enumerate(rows, 1):
        where = f"{path.name}, entry {number}"
        image, texts = _fields(row, where)
        yield Row(image=image, captions=texts, split=split, where=where)


def _fields(row: Any, where: str) -> tuple[str, tuple[str, ...]]:
    image = row.get("image") if isinstance(row, dict) else None
    texts = row.get("caption") if isinstance(row, dict) else None
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(image, str) or not isinstance(texts, list):
        raise FormatError(
            f'{where}: expected "image" (text) and "caption" (a list of texts).',
            f"{where}：应含 image(文本)和 caption(文本列表)。",
        )
    # Half an emoji (a lone surrogate, legal in JSON) is in no vocabulary and in no file of ours.
    whole = (text.encode("utf-8", "replace").decode() for text in texts if isinstance(text, str))
    cleaned = (text.strip() for text in whole)
    return image.replace("\\", "/"), tuple(text for text in cleaned if text)


class Finder:
    """Resolves pictures as captions write them to paths of the collection."""

    def __init__(self, paths: list[str], root: Path, captions: str) -> None:
        self._paths = set(paths)
        self._by_name: dict[str, str | None] = {}
        for path in paths:  # a base name that is not unique finds nothing
            name = PurePosixPath(path).name
            self._by_name[name] = None if name in self._by_name else path
        self._root = root.absolute()
        self._beside = [path.parent.absolute() for path in caption_files(captions)]

    def find(self, image: str) -> str | None:
        """The collection's path of ``image``: under the root, beside the captions, by base name."""
        clean = PurePosixPath(image).as_posix().removeprefix("./")
        if clean in self._paths:
            return clean
        for folder in self._beside:
            path = Path(os.path.normpath(folder / clean))
            if path.is_relative_to(self._root):
                inside = path.relative_to(self._root).as_posix()
                if inside in self._paths:
                    return inside
        return self._by_name.get(PurePosixPath(clean).name)


def of_name(path: str) -> tuple[str, ...]:
    """The caption that a file's name is, for ``--captions names``."""
    text = PurePosixPath(path).stem.strip()
    return (text,) if text else ()
