"""What there is to unpack: Chinese-CLIP's TSV, JSONL and LMDB, streamed.

{split}_imgs.tsv, {split}_texts.jsonl      one file each, or a folder of them
lmdb/{split}/pairs, lmdb/{split}/imgs      the folder of a split, or the one above
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from wentu.errors import InputError
from wentu.formats import PairsLmdb, read_texts, read_tsv
from wentu.interchange.jsonl import count_lines
from wentu.storage import local_path

Picture = tuple[str, str, int, bytes]
"""(split, where it stands, image id, base64)"""
Caption = tuple[str, Sequence[int], str]
"""(split, image ids, text)"""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Files and folders in Chinese-CLIP's formats."""

    tsv: tuple[Path, ...] = ()
    texts: tuple[Path, ...] = ()
    lmdb: tuple[Path, ...] = ()
    """Folders with ``pairs`` and ``imgs``."""

    @property
    def captioned(self) -> list[str]:
        """The splits that have captions."""
        return sorted({split_name(path) for path in (*self.texts, *self.lmdb)})


def find_sources(places: Iterable[str]) -> Sources:
    """What is to be unpacked; InputError on a place that holds nothing of the kind."""
    found: dict[str, list[Path]] = {"tsv": [], "texts": [], "lmdb": []}
    for place in places:
        path = local_path(place)
        if path.is_dir():
            some = _in_folder(path)
        else:
            kind = {".tsv": "tsv", ".jsonl": "texts"}.get(path.suffix if path.is_file() else "")
            some = {kind: [path]} if kind else {}
        if not some:
            raise InputError(
                f"{place}: give an _imgs.tsv, a _texts.jsonl, an LMDB folder (pairs and imgs), or "
                "a folder that holds those.",
                f"{place}：请给出 _imgs.tsv、_texts.jsonl、LMDB 目录(含 pairs 与 imgs)，"
                "或包含它们的目录。",
            )
        for kind, paths in some.items():
            found[kind] += paths
    if not found["tsv"] and not found["lmdb"]:
        raise InputError(
            "captions alone hold no pictures: name the _imgs.tsv too.",
            "仅有描述而没有图片：请同时给出 _imgs.tsv。",
        )
    return Sources(**{kind: tuple(paths) for kind, paths in found.items()})


def _in_folder(folder: Path) -> dict[str, list[Path]]:
    """The files of a data set's folder; its LMDB only where it has no TSV."""
    tsv = sorted(folder.glob("*_imgs.tsv"))
    if tsv:
        return {"tsv": tsv, "texts": sorted(folder.glob("*_texts.jsonl"))}
    for root in (folder, folder / "lmdb"):
        if (root / "imgs" / "data.mdb").exists():
            return {"lmdb": [root]}
        splits = sorted(each.parent.parent for each in root.glob("*/imgs/data.mdb"))
        if splits:
            return {"lmdb": splits}
    return {}


def split_name(path: Path) -> str:
    """``train`` of ``train_imgs.tsv``, ``train_texts.jsonl`` and ``lmdb/train``."""
    name = path.name if path.is_dir() else path.stem
    return name.removesuffix("_imgs").removesuffix("_texts") or "captions"


class _Lmdb(PairsLmdb):
    """An LMDB whose pictures are read whether or not a caption names them."""

    def image_ids(self) -> Iterator[int]:
        """Every picture. Where more lie there than it declares, the others were left behind by
        an earlier build (its own script never empties one): then those that a caption names."""
        if self._imgs.stat()["entries"] - 1 == self.num_images:
            with self._imgs.begin() as transaction:
                keys = transaction.cursor().iternext(keys=True, values=False)
                yield from (int(key) for key in keys if key != b"num_images")
        else:
            yield from (self.pair(index)[0] for index in range(len(self)))

    def encoded(self, image_id: int) -> bytes:
        """A picture's base64."""
        return self._get(self._imgs, str(image_id))


def pictures_of(sources: Sources) -> Iterator[Picture]:
    """Every picture of the sources, streamed."""
    for path in sources.tsv:
        for number, (image_id, encoded) in enumerate(read_tsv(path), 1):
            yield split_name(path), f"{path}, line {number}", image_id, encoded
    for path in sources.lmdb:
        with closing(_Lmdb(path)) as split:
            for image_id in split.image_ids():
                where = f"{path}, imgs, key {image_id}"
                yield split_name(path), where, image_id, split.encoded(image_id)


def captions_of(sources: Sources) -> Iterator[Caption]:
    """Every caption of the sources, streamed."""
    for path in sources.texts:
        for text in read_texts(path):
            yield split_name(path), text.image_ids, text.text
    for path in sources.lmdb:
        with closing(_Lmdb(path)) as split:
            for index in range(len(split)):
                image_id, _, said = split.pair(index)
                yield split_name(path), (image_id,), said


def count_pictures(sources: Sources) -> int:
    """How many pictures ``pictures_of`` will give, about."""
    total = sum(count_lines(path) for path in sources.tsv)
    for path in sources.lmdb:
        with closing(_Lmdb(path)) as split:
            total += split.num_images
    return total
