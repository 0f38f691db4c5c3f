"""Features as Chinese-CLIP writes them, ``{"image_id": 5, "feature": [...]}``, a line each."""

from __future__ import annotations

import filecmp
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt

from wentu.errors import FormatError, InputError
from wentu.storage import local_path

Vector = npt.NDArray[np.float32]


def existing(option: str, place: str) -> Path:
    """The file that an option names; InputError where there is none."""
    path = local_path(place)
    if not path.is_file():
        raise InputError(f"{option} {place}: no such file.", f"{option} {place}：文件不存在。")
    return path


def count_lines(path: Path) -> int:
    """How many lines a file has; about a second for 2 GB."""
    with path.open("rb") as file:
        blocks = iter(lambda: file.read(1 << 20), b"")
        total, last = 0, b"\n"
        for block in blocks:
            total, last = total + block.count(b"\n"), block
        return total + (not last.endswith(b"\n"))


def read_features(path: Path, key: str = "image_id") -> Iterator[tuple[str, str, Vector]]:
    """("file, line n", id as text, float32 [D]) of each line, streamed.

    Raises FormatError with the line on anything that is no feature: zeros and NaN too.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
                vector = np.array(value["feature"], np.float32)
                if vector.ndim != 1 or not np.isfinite(vector).all() or not vector.any():
                    raise ValueError("feature: a list of finite numbers, not all of them 0")
                yield f"{path}, line {number}", str(int(value[key])), vector
            except (ValueError, KeyError, TypeError) as error:
                raise FormatError(
                    f"{path}, line {number}: expected {key} and feature ({error!r}).",
                    f"{path} 第 {number} 行：应含 {key} 与 feature({error!r})。",
                ) from None


def feature_line(key: str, identity: int, vector: Vector) -> str:
    """One line of a features file; a float32 read back is the same float32."""
    return json.dumps({key: identity, "feature": vector.tolist()}) + "\n"


@contextmanager
def replacing(path: Path, *, ours: bool = True) -> Iterator[TextIO]:
    """A UTF-8 text file to be written, which takes its place when it is whole.

    Args:
        ours: False: what is there may be the user's, and must be the same (InputError).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if not ours and path.exists() and not filecmp.cmp(temporary, path, shallow=False):
            raise InputError(
                f"{path} is there and says something else; remove it, or name another folder.",
                f"{path} 已存在且内容不同；请移除该文件或使用其他目录。",
            )
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
