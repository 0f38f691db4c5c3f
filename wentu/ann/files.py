"""Choosing, writing and reading the index of a segment: ``index.faiss``, and ``index.json``.

``index.json`` stands beside a compressed index only, with how it is searched and what it finds.
Files go through Python's own IO: FAISS itself cannot open paths with Chinese characters on Windows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wentu.ann.arrays import Vectors
from wentu.ann.compressed import Compressed, Effort, trained
from wentu.ann.tuning import choose, exact_recall, prove, questions
from wentu.errors import FormatError, QualityError
from wentu.formats import FORMAT, read_json, write_atomic, write_json
from wentu.language import pick

INDEX, SETTINGS = "index.faiss", "index.json"
EXACT, COMPRESSED = "exact", "compressed"
EXACT_UP_TO = 50_000
"""Vectors that an exact index holds: a query takes 7 ms then, and all of them in memory."""
LEAST_RECALL = 0.98


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What an index is and finds."""

    kind: str
    recall_at_10: float
    """The least over the kinds of queries."""
    recall_pictures: float
    recall_text_like: float


def build(vectors: Vectors) -> Any:
    """An exact inner-product index over ``vectors`` [N, D], by row number."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    return index


def make(
    vectors: Vectors,
    folder: Path,
    *,
    least: float = LEAST_RECALL,
    note: Callable[[str], object] = lambda text: None,
) -> Quality:
    """Write the index that suits ``vectors`` [N, D], which may be mapped, into ``folder``.

    An exact one where there are few, or where codes do not find enough. At a million vectors of
    512 numbers it takes minutes on two cores, and less than 1.5 GB of memory beside the vectors.

    Raises QualityError where the recall is below ``least``.

    Args:
        note: is told what takes long, a sentence.
    """
    if len(vectors) > EXACT_UP_TO and (made := _compressed(vectors, folder, least, note)):
        return made
    built = build(vectors)
    recall = exact_recall(built, vectors)
    if recall < least:
        raise QualityError(
            f"the index finds {recall:.3f} of the true nearest, --min-recall is {least}.",
            f"索引只找回 {recall:.3f} 的真实近邻，低于 --min-recall {least}。",
        )
    write_index(built, folder / INDEX)
    return Quality(kind=EXACT, recall_at_10=recall, recall_pictures=recall, recall_text_like=recall)


def _compressed(
    vectors: Vectors, folder: Path, least: float, note: Callable[[str], object]
) -> Quality | None:
    """Write a compressed index; None where it would not find enough."""
    note(pick("comparing queries with every vector", "将查询与全部向量逐一比较"))
    choosing, proving = questions(vectors)
    note(pick("building the index", "正在建立索引"))
    index = Compressed(trained(vectors), vectors, Effort(probes=1, depth=1))
    effort = choose(index, choosing, least)
    if effort is not None:
        index.effort = effort
        pictures, texts = prove(index, proving)
        if min(pictures, texts) >= least:
            made = Quality(
                kind=COMPRESSED,
                recall_at_10=min(pictures, texts),
                recall_pictures=pictures,
                recall_text_like=texts,
            )
            write_index(index.codes, folder / INDEX)
            write_json(folder / SETTINGS, {"format": FORMAT, **asdict(made), **asdict(effort)})
            return made
    note(
        pick(
            f"codes do not reach --min-recall {least}: an exact index, which is slower",
            f"压缩索引达不到 --min-recall {least}：改用精确索引(较慢)",
        )
    )
    return None


def quality_of(folder: Path) -> Quality:
    """Of the index in the folder of a segment."""
    if not (folder / SETTINGS).exists():
        return Quality(kind=EXACT, recall_at_10=1.0, recall_pictures=1.0, recall_text_like=1.0)
    value = _settings(folder)
    return Quality(**{name: value[name] for name in Quality.__dataclass_fields__})


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS
    value: dict[str, Any] = read_json(path)
    fields = {*Quality.__dataclass_fields__, *Effort.__dataclass_fields__}
    if not isinstance(value, dict) or value.get("format") != FORMAT or not fields <= value.keys():
        raise FormatError(
            f"{path} does not describe an index that this wentu reads; refresh or update wentu.",
            f"{path} 不是本版 wentu 可读的索引说明；请刷新或升级 wentu。",
        )
    return value


def open_index(folder: Path, vectors: Vectors) -> Any:
    """The index of the segment in ``folder``, over its ``vectors``; FormatError."""
    found = read_index(folder / INDEX)
    if not (folder / SETTINGS).exists():
        return found
    value = _settings(folder)
    try:
        effort = Effort(probes=int(value["probes"]), depth=int(value["depth"]))
        return Compressed(found, vectors, effort)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"{folder / SETTINGS} and {INDEX} do not fit each other ({error}).",
            f"{folder / SETTINGS} 与 {INDEX} 不相符({error})。",
        ) from None


def write_index(index: Any, path: Path) -> None:
    """Write an index, whole or not at all."""
    import faiss

    write_atomic(path, faiss.serialize_index(index).tobytes())


def read_index(path: Path) -> Any:
    """Read an index; FormatError where the file is none.

    What FAISS can leave in the file is mapped: an exact index is its vectors.
    """
    import faiss

    try:
        data = np.memmap(path, dtype=np.uint8, mode="r")  # ValueError where it is empty
        library: Any = faiss  # whose types do not know all of it
        index = library.read_index(library.ZeroCopyIOReader(faiss.swig_ptr(data), len(data)))
    except (RuntimeError, ValueError) as error:
        raise FormatError(
            f"{path} is no FAISS index ({error}).", f"{path} 不是 FAISS 索引({error})。"
        ) from None
    index.referenced_objects = (data,)  # which must live as long; the name is FAISS's
    return index
