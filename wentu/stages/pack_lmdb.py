"""pack_lmdb: TSV + JSONL -> LMDB that Chinese-CLIP's own code reads.

One pass over each file, keys in sorted order where the TSV is (ours is), which fills pages evenly
and is several times faster than random inserts. Never into an existing database: old keys that
stay behind would give pictures the wrong features.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wentu.errors import FormatError, InputError
from wentu.formats import CATALOG, MANIFEST, SPLITS, read_manifest, read_texts, read_tsv
from wentu.settings import StageConfig
from wentu.stage import MARK, Stage
from wentu.storage import link_or_copy

COMMIT_EVERY = 5000
"""Pictures in one transaction: bounds the dirty pages held in memory."""


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Nothing to choose: the format decides."""


def pack_lmdb(*, catalog: Path, tsv: Path, out: Path, config: Config) -> None:
    """Write ``{train,valid,test}/{pairs,imgs}`` and a copy of the catalog into ``out``.

    Args:
        catalog: output of pairs. tsv: its folder of ``{split}_imgs.tsv`` and ``_texts.jsonl``.
    """
    inputs = {"pairs": read_manifest(catalog, "pairs").digest}
    with Stage("pack_lmdb", out, config, inputs) as stage:
        refuse_others(tsv, catalog, inputs["pairs"])
        for split in SPLITS:
            if (tsv / f"{split}_imgs.tsv").exists():
                samples, images = pack_split(tsv, split, out / split, stage)
                stage.counts |= {f"{split}_pairs": samples, f"{split}_pictures": images}
        if not stage.counts.get("train_pairs"):
            raise InputError(
                "no picture is left to train on: give more captions, lower --test-fraction and "
                "--valid-fraction, or only make the pictures searchable with --no-train.",
                "没有可用于训练的图片：请提供更多描述，降低 --test-fraction 与 --valid-fraction，"
                "或用 --no-train 只让图片可检索。",
            )
        link_or_copy(str(catalog / CATALOG), str(out / CATALOG))


def refuse_others(tsv: Path, catalog: Path, pairs: str) -> None:
    """A TSV that pairs wrote must be whole, and of the same run as the catalog; others are free."""
    ours = (tsv / MARK).exists() or (tsv / MANIFEST).exists()
    if ours and read_manifest(tsv, "pairs").digest != pairs:
        raise InputError(
            f"--tsv {tsv} and --catalog {catalog} are of different runs of pairs.",
            f"--tsv {tsv} 与 --catalog {catalog} 来自 pairs 的不同运行。",
        )


def pack_split(tsv: Path, split: str, out: Path, stage: Stage) -> tuple[int, int]:
    """Pack one split; returns (pairs, distinct pictures)."""
    if out.exists():
        raise InputError(
            f"{out} exists; an LMDB is never packed into an existing one.",
            f"{out} 已存在；不会向已有的 LMDB 中写入。",
        )
    source = tsv / f"{split}_imgs.tsv"
    images = _pack_pictures(source, out / "imgs", stage, split)
    samples = _pack_pairs(tsv / f"{split}_texts.jsonl", out, stage, split)
    return samples, images


def _open(path: Path, size: int) -> Any:
    """A new database whose map is sized to the data: Windows allocates all of it."""
    import lmdb

    path.mkdir(parents=True)
    return lmdb.open(str(path), map_size=size, writemap=False, sync=False, metasync=False)


def _pack_pictures(source: Path, out: Path, stage: Stage, split: str) -> int:
    """Pictures by the decimal string of their id; a repeated id is one picture.

    What is there already is asked of the database: memory does not grow with the pictures.
    """
    lines = count_lines(source)
    # A value on overflow pages takes whole pages of 4 KiB; a half more for the tree.
    env = _open(out, int(1.5 * source.stat().st_size) + 8192 * lines + 2**22)
    last, count = "", 0
    transaction = env.begin(write=True)
    rows = stage.progress.track(read_tsv(source), f"{split} imgs", lines)
    for number, (image_id, data) in enumerate(rows, 1):
        key = str(image_id)
        ordered = last < key < "num_images"
        count += transaction.put(key.encode(), data, overwrite=False, append=ordered)
        last = max(last, key)
        if number % COMMIT_EVERY == 0:
            transaction.commit()
            transaction = env.begin(write=True)
    transaction.put(b"num_images", str(count).encode())
    transaction.commit()
    env.sync(True)
    env.close()
    return count


def _pack_pairs(source: Path, folder: Path, stage: Stage, split: str) -> int:
    """One (image id, text id, caption) per picture of a caption, numbered from 0."""
    import lmdb

    count = size = 0
    for text in read_texts(source):
        count += len(text.image_ids)
        size += len(text.image_ids) * (len(text.text.encode()) + 4096 * (len(text.text) > 400))
    env = _open(folder / "pairs", 2 * size + 1024 * count + 2**22)
    pictures = lmdb.open(str(folder / "imgs"), readonly=True, lock=False)
    with env.begin(write=True) as transaction, pictures.begin() as images:
        values = zip(decimals(count), _pairs(source, images), strict=True)
        for key, value in stage.progress.track(values, f"{split} pairs", count):
            transaction.put(key.encode(), pickle.dumps(value), append=True)
        transaction.put(b"num_samples", str(count).encode(), append=True)
    env.sync(True)
    env.close()
    pictures.close()
    return count


def count_lines(path: Path) -> int:
    """Line breaks of a file, in blocks: its lines are as long as pictures."""
    block, count = bytearray(1 << 20), 0
    with path.open("rb", buffering=0) as file:
        while got := file.readinto(block):
            count += block.count(b"\n", 0, got)
    return count


def decimals(count: int, start: str = "") -> Iterator[str]:
    """ "0" to ``count - 1`` in the order of text ("0", "1", "10", "11", …), as LMDB sorts keys."""
    for digit in range(10) if start != "0" else ():
        number = f"{start}{digit}"
        if int(number) >= count:
            return
        yield number
        yield from decimals(count, number)


def _pairs(source: Path, images: Any) -> Iterator[tuple[int, int, str]]:
    for text in read_texts(source):
        for image in text.image_ids:
            if images.get(str(image).encode()) is None:
                raise FormatError(
                    f"{source}: the caption {text.text_id} names the picture {image}, which the "
                    "TSV lacks.",
                    f"{source}：描述 {text.text_id} 引用的图片 {image} 不在 TSV 中。",
                )
            yield image, text.text_id, text.text
