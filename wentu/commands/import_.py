"""`wentu import`: what Chinese-CLIP's own scripts made becomes a release that is served.

Pictures, captions, features and model come in through ``wentu.interchange``; from the vectors on
it is the stages index and promote, so an imported release is like any other.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wentu.commands.options import console as make_console
from wentu.commands.options import make_command, make_option
from wentu.language import pick
from wentu.listing import Listing
from wentu.progress import Reporter
from wentu.settings import store_place
from wentu.storage import portable
from wentu.store import Store

if TYPE_CHECKING:
    from wentu.interchange.sources import Sources


def command() -> click.Command:
    """The command."""
    tsv = pick("Their pictures: train_imgs.tsv; repeat.", "图片：train_imgs.tsv，可重复。")
    features = pick(
        "Their features: train_imgs.img_feat.jsonl; repeat. Pictures without one are embedded.",
        "特征：train_imgs.img_feat.jsonl，可重复；没有特征的图片由模型嵌入。",
    )
    onnx = pick(
        "The model: NAME or a folder of NAME.txt.fp32.onnx and NAME.img.fp32.onnx (or fp16).",
        "模型：前缀，或包含 名称.txt.fp32.onnx 与 名称.img.fp32.onnx(或 fp16)的目录。",
    )
    texts = pick("Their captions: train_texts.jsonl; repeat.", "描述：train_texts.jsonl，可重复。")
    pictures = pick("Folder to unpack the pictures into.", "解包图片的目录。")
    length = pick(
        "Tokens of a text, where the ONNX file takes any (52).",
        "文本词元数，仅当 ONNX 文件长度可变时需要(52)。",
    )
    checkpoint = pick(
        "The .pt file that the ONNX files were made from, for the temperature (else 100).",
        "ONNX 文件对应的 .pt，用于读取温度参数(否则为 100)。",
    )
    return make_command(
        "import",
        execute,
        [
            make_option("tsv", str, "", tsv, required=True, multiple=True),
            make_option("features", str, "", features, multiple=True),
            make_option("onnx", str, "", onnx, required=True),
            make_option("texts", str, "", texts, multiple=True),
            make_option("pictures", str, "", pictures, required=True),
            make_option("store", str, "", pick("The store [WENTU_STORE].", "仓库 [WENTU_STORE]。")),
            make_option("context_length", int, None, length),
            make_option("checkpoint", str, "", checkpoint),
        ],
    )


def execute(
    tsv: tuple[str, ...],
    features: tuple[str, ...],
    onnx: str,
    texts: tuple[str, ...],
    pictures: str,
    store: str | None,
    context_length: int | None,
    checkpoint: str | None,
) -> None:
    """Import, publish, and say what came of it."""
    from wentu.interchange.jsonl import existing
    from wentu.interchange.models import find_onnx, make_bundle
    from wentu.interchange.sources import Sources
    from wentu.progress import Lines
    from wentu.storage import local_path

    sources = Sources(
        tsv=tuple(existing("--tsv", place) for place in tsv),
        texts=tuple(existing("--texts", place) for place in texts),
    )
    vectors = [existing("--features", place) for place in features]
    weights = existing("--checkpoint", checkpoint) if checkpoint else None
    towers, root = find_onnx(onnx), local_path(pictures)
    vault, report, console = Store(store or store_place()), Lines("import"), make_console()
    # One folder in the store, cleared before and after: what is released is linked, not copied.
    work = vault.storage.home / "work" / "import"
    with vault.storage.lock("work-import"):
        empty(work)
        make_bundle(towers, work / "bundle", context_length=context_length, checkpoint=weights)
        for sentence in publish(vault, work, root, sources, vectors, report):
            if sentence:
                console.print(f"{sentence}.", soft_wrap=True, markup=False)
        empty(work)


def empty(work: Path) -> None:
    """Leave nothing in a folder of ours."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)


def publish(
    vault: Store,
    work: Path,
    root: Path,
    sources: Sources,
    features: list[Path],
    report: Reporter,
) -> Iterator[str]:
    """Unpack, gather, index and promote; yields what came of it, in sentences.

    Args:
        work: holds ``bundle``; everything on the way goes there. root: folder for the pictures.
    """
    from wentu.collection import LocalCollection
    from wentu.interchange.enter import catalogue, gather
    from wentu.interchange.unpack import Unpacker, write_captions
    from wentu.stages import index

    before, memory = vault.pointer(), work / "unpacked.sqlite"
    catalog, vectors = work / "catalog", work / "features"
    with closing(sqlite3.connect(memory)) as db:
        yield str(Unpacker(db, root).take(sources, report))
        written = write_captions(db, sources, root, "")
    captions = "\n".join(portable(str(path)) for path in written) or "none"
    found = listed(vault, root, captions, work, report)
    collection = LocalCollection(str(root), root)
    yield catalogue(catalog, collection, found, memory, found.digest, report)
    yield str(
        gather(catalog, collection, memory, features, work / "bundle", vault, vectors, report)
    )
    index.index(catalog=catalog, features=[vectors], out=work / "index", config=index.Config())
    number = before.number if before else 0
    yield promoted(vault, work, found.digest, portable(str(root)), captions, number)


def listed(vault: Store, root: Path, captions: str, work: Path, report: Reporter) -> Listing:
    """The inventory of the pictures, as a later run lists them: then it finds nothing changed."""
    from wentu.collection import LocalCollection, Skipped
    from wentu.stages import inventory

    skipped = Skipped()
    rows = inventory.listing(LocalCollection(str(root), root), captions, vault, report, skipped)
    found = Listing.write(work / "listing", rows)
    vault.put_inventory(found, skipped.examples)
    return found


def promoted(
    vault: Store, work: Path, inventory: str, pictures: str, captions: str, pointer: int
) -> str:
    """Publish what is in ``work``; says which release it is."""
    from wentu.commands.rollback import use_tracking
    from wentu.stages import promote

    use_tracking(vault)
    promote.promote(
        catalog=work / "catalog",
        bundle=work / "bundle",
        index=work / "index",
        store=vault.place,
        inventory=inventory,
        out=work / "promoted",
        config=promote.Config(),
        pointer=pointer,
        pictures=pictures,
        captions=captions,
        use="store:",  # no other weights are named: a later run without a model changes nothing
    )
    current = vault.current()
    assert current is not None
    return pick(f"Release {current[1].id} is current", f"版本 {current[1].id} 已成为当前版本")
