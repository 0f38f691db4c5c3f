"""index: vectors -> a segment with its FAISS index, its recall measured against brute force.

What several shards of features wrote is put together first; the segment is the same to the byte
however many there were. Small collections are searched exactly, large ones by codes first (see
wentu/ann), whose recall is measured with pictures and with queries that lie where texts do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wentu import ann
from wentu.errors import FormatError, InputError
from wentu.formats import CATALOG, digest_of, read_json, read_manifest
from wentu.language import pick
from wentu.segments import copy_catalog
from wentu.settings import StageConfig, option
from wentu.stage import Stage
from wentu.storage import link_or_copy

Ids = npt.NDArray[np.int64]

ROWS_AT_ONCE = 65_536
"""Vectors that are copied at once."""


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """How good the index must be."""

    min_recall: float = option(
        0.98,
        "Least recall@10 of the index against exact search.",
        "索引相对精确检索的最低 recall@10。",
    )

    def check(self) -> None:
        self.need_share("min_recall")


def index(*, catalog: Path, features: Sequence[Path], out: Path, config: Config) -> None:
    """Write ``segment/`` (vectors, ids, catalog, index; absent when nothing is new) into ``out``.

    Args:
        catalog: output of pairs. features: output of features, of every shard.
    """
    pairs = read_manifest(catalog, "pairs").digest
    parts = in_order(features, pairs)
    digests = [read_manifest(part).digest for part in parts]
    inputs = {"pairs": pairs, "features": digests[0] if len(digests) == 1 else digest_of(digests)}
    with Stage("index", out, config, inputs) as stage:
        link_or_copy(str(parts[0] / "reuse.json"), str(out / "reuse.json"))
        ids = merged_ids(parts)
        stage.counts |= {"vectors": len(ids)}
        if not len(ids):
            return
        segment = out / "segment"
        segment.mkdir()
        write_vectors(parts, ids, segment)
        vectors = np.load(segment / "vectors.npy", mmap_mode="r")
        if gpus := ann.gpu_count():
            text = pick(f"searched on {gpus} GPUs", f"在 {gpus} 个 GPU 上检索")
            stage.progress.note(text)
        made = ann.make(vectors, segment, least=config.min_recall, note=stage.progress.note)
        copy_catalog(catalog / CATALOG, segment / CATALOG, ids.tolist())
        stage.counts |= {"recall_at_10": made.recall_at_10}
        if made.kind != ann.EXACT:
            stage.counts |= {"index": made.kind, "recall_pictures": made.recall_pictures}


def in_order(folders: Sequence[Path], pairs: str) -> list[Path]:
    """The shards of one embedding by their number; InputError where they do not belong together.

    Args:
        pairs: digest of the catalog that they must be of.
    """
    found: dict[str, Path] = {}
    alike = set()
    for folder in folders:
        inputs = dict(read_manifest(folder, "features").inputs)
        shard = inputs.pop("shard", "1/1")
        if shard in found:
            raise InputError(
                f"--features {folder}: shard {shard} is in {found[shard]} already; name each once.",
                f"--features {folder}：第 {shard} 份已由 {found[shard]} 给出；每份只能给一次。",
            )
        found[shard] = folder
        alike.add((inputs["pairs"], digest_of(inputs), (folder / "reuse.json").read_bytes()))
    if len(alike) > 1 or {each[0] for each in alike} != {pairs}:
        raise InputError(
            "--features: these are not of one embedding of --catalog (the catalog, the model or "
            "the release they build upon differ); run features again, for every shard.",
            "--features：这些输出不属于 --catalog 的同一次嵌入(图文目录、模型或所依据的版本不同)；"
            "请重新运行每一份 features。",
        )
    whole = [f"{number}/{len(folders)}" for number in range(1, len(folders) + 1)]
    if found.keys() != set(whole):
        given = ", ".join(sorted(found))
        raise InputError(
            f"--features: given are the shards {given}; give all of one embedding.",
            f"--features：给出的是第 {given} 份；请给出同一次嵌入的全部。",
        )
    return [found[name] for name in whole]


def merged_ids(parts: Sequence[Path]) -> Ids:
    """[N] the ids of all shards, in order; FormatError where one is missing or is there twice."""
    ids: Ids = np.concatenate([np.load(part / "ids.npy") for part in parts])
    expected = read_json(parts[0] / "reuse.json")["pictures"]
    if len(ids) != expected or (np.diff(ids) <= 0).any():
        raise FormatError(
            f"the shards hold {len(ids):,} pictures, {expected:,} are expected, each once: they "
            "were cut with different --embed-batch-size; run features again, for every shard.",
            f"各份共 {len(ids):,} 张图片，应为 {expected:,} 张且不重复：切分时的 "
            "--embed-batch-size 不同；请重新运行每一份 features。",
        )
    return ids


def write_vectors(parts: Sequence[Path], ids: Ids, segment: Path) -> None:
    """``ids.npy`` and ``vectors.npy``: those of the shards, one after the other."""
    if len(parts) == 1:
        for name in ("ids.npy", "vectors.npy"):
            link_or_copy(str(parts[0] / name), str(segment / name))
        return
    np.save(segment / "ids.npy", ids)
    sources = [np.load(part / "vectors.npy", mmap_mode="r") for part in parts]
    shape, row = (len(ids), sources[0].shape[1]), 0
    target = np.lib.format.open_memmap(
        segment / "vectors.npy", mode="w+", dtype=np.float32, shape=shape
    )
    for source in sources:
        for first in range(0, len(source), ROWS_AT_ONCE):
            block = source[first : first + ROWS_AT_ONCE]
            target[row : row + len(block)] = block
            row += len(block)
    target.flush()
