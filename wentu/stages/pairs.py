"""pairs: captions of any layout + pictures -> catalog, three splits, TSV + JSONL, report.

Every picture is decoded once: what cannot be shown is set aside here, with its reason, before any
long stage. Splits are by group (pictures that are the same or nearly so), by a hash of the group,
and for good: what a picture was once given is kept in the store. The user's own split files win.

A naming task (``--split closed``: one picture per name) has nothing to hold out. There every
picture is trained on, and valid and test are views of the same pictures, changed as another photo
of the thing would be (``pictures.view``); figures on them say how well names are told apart, not
how well unseen pictures are found, and every report says so.
"""

from __future__ import annotations

import hashlib
import io
import sqlite3
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wentu import captions as layouts
from wentu import catalog as making
from wentu import pictures as decoder
from wentu import report, splits
from wentu.captions.names import of_names
from wentu.clip.convert import CONVERSIONS, convert
from wentu.clip.text import Tokenizer
from wentu.collection import Collection, open_collection
from wentu.errors import InputError
from wentu.formats import (
    CATALOG,
    SPLITS,
    Manifest,
    Text,
    batched,
    create_catalog,
    has_moments,
    open_catalog,
    tsv_line,
    write_json,
    write_manifest,
)
from wentu.language import pick
from wentu.settings import StageConfig, option
from wentu.stage import Stage, clear
from wentu.store import Store, now

SHOWN = 200
"""Rows of a list in the report; the counts beside it are of all."""
KEPT = ("convert", "split", "context_length")
"""Options that later stages need to know: facts in the catalog."""
CHINESE_CLIP = 52
"""Tokens of a caption that Chinese-CLIP was made for."""


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """How pictures and captions become training data."""

    valid_fraction: float = option(
        0.05,
        "Share of the groups that choose the epoch, where your files name no valid split.",
        "在您的文件没有指定验证集时，用于选择轮次的分组比例。",
    )
    test_fraction: float = option(
        0.10,
        "Share of the groups for the final comparison, where your files name no test split.",
        "在您的文件没有指定测试集时，用于最终比较的分组比例。",
    )
    split: str = option(
        "open",
        "open: pictures are held out for choosing and testing. closed: a naming task; all are "
        "trained on, and tested by changed views of them.",
        "open：留出图片用于选择与测试。closed：命名任务，全部用于训练，以其变化视图测试。",
        choices=("open", "closed"),
    )
    max_rejected: float = option(
        0.05,
        "Stop when a larger share of the pictures cannot be read.",
        "无法读取的图片超过此比例时停止。",
        shapes=False,
    )
    convert: str = option(
        "none",
        "Bring captions and queries to simplified Chinese: t2s from traditional, tw2sp from "
        "Taiwan's (words too: only for text from there), hk2s from Hong Kong's. The original is "
        "kept beside.",
        "把描述与查询转为简体：t2s(繁体)、tw2sp(台湾正体，含用词，仅用于台湾文本)、hk2s(香港繁体)。保留原文。",
        choices=CONVERSIONS,
    )
    picture_column: str = option(
        "",
        "Column of the table that names the picture, by its header or its number from 1.",
        "表格中图片所在的列：列名或从 1 开始的列号。",
    )
    caption_column: str = option(
        "",
        "Column of the table that holds the caption, by its header or its number from 1.",
        "表格中描述所在的列：列名或从 1 开始的列号。",
    )
    context_length: int = option(
        0,
        "Tokens of a caption, [CLS] and [SEP] included; longer ones are cut. 0: what the model "
        "was made for, 52 for Chinese-CLIP.",
        "描述的最大词元数，含 [CLS] 与 [SEP];更长的会被截断。0：模型原有的长度，"
        "Chinese-CLIP 为 52。",
    )

    def check(self) -> None:
        self.need_share("valid_fraction", "test_fraction", "max_rejected")
        self.need(
            self.valid_fraction + self.test_fraction < 1,
            "valid_fraction",
            "with --test-fraction it leaves nothing to train on.",
            "与 --test-fraction 相加后没有留下训练数据。",
        )
        self.need(
            self.context_length == 0 or self.context_length >= 3,
            "context_length",
            "give 3 or more, or 0 for the model's own.",
            "至少为 3，或 0 表示模型原有的长度。",
        )


def pairs(
    *,
    pictures: str,
    captions: str,
    store: str,
    inventory: str,
    out: Path,
    tsv: Path | None,
    config: Config,
) -> None:
    """Write the catalog and a report into ``out``, and the splits' TSV + JSONL into ``tsv``.

    Args:
        pictures: the collection's folder. captions: files (one a line), names, or none.
        inventory: digest of the listing in the store that says which files there are.
        tsv: None where nothing will be trained.
    """
    inputs = {"inventory": inventory}
    if tsv is not None and tsv.resolve() == out.resolve():
        raise InputError(
            f"--tsv {tsv} is --out; name another folder.",
            f"--tsv {tsv} 与 --out 相同；请使用其他目录。",
        )
    with Stage("pairs", out, config, inputs) as stage:
        collection, vault = open_collection(pictures), Store(store)
        catalog = create_catalog(out / CATALOG)
        with closing(catalog):
            making.add_pictures(catalog, collection, vault.inventory(inventory), stage.progress)
            making.note_added(catalog, added_before(vault), now()[:10])
            try:
                refuse_too_many(catalog, config.max_rejected)
            except InputError:  # all reasons, not the first three
                write_report(out, describe(catalog, Missing(), CHINESE_CLIP), config)
                stage.progress.tell(pick("All reasons: ", "全部原因：") + str(out / "report.html"))
                raise
            missing = add_captions(catalog, collection.top, captions, config, stage)
            if captions != "none":
                assign(catalog, vault, config)
            facts = [(name, str(getattr(config, name))) for name in KEPT]
            catalog.executemany("INSERT INTO facts VALUES (?, ?)", facts)
            catalog.commit()
            # What was assigned depends on the store's history, not on this listing alone.
            inputs["splits"] = splits_digest(catalog)
            found = describe(catalog, missing, config.context_length or CHINESE_CLIP)
            found["passed_over"] = vault.passed_over(inventory)
            if tsv is not None:
                write_splits(catalog, collection, tsv, stage, closed=config.split == "closed")
                write_manifest(tsv, Manifest(stage="pairs", config=vars(config), inputs=inputs))
        write_report(out, found, config)
        stage.counts |= found["counts"]
        stage.tracker.artifact(out / "report.html")


def added_before(store: Store) -> Iterator[tuple[int, str | None]]:
    """(id, day when it was added) of what is served; None where the release does not say."""
    current = store.current()
    for segment in current[1].segments if current else ():
        with closing(open_catalog(store.segment(segment.digest) / CATALOG)) as db:
            said = (
                "moments"
                if has_moments(db)
                else "(SELECT id AS picture, NULL AS added FROM pictures)"
            )
            yield from db.execute(f"SELECT picture, added FROM {said}")


def assign(catalog: sqlite3.Connection, store: Store, config: Config) -> None:
    """Give every captioned picture its split."""
    if config.split == "open":
        splits.assign(catalog, store, config.valid_fraction, config.test_fraction)
        return
    catalog.execute(
        "UPDATE pictures SET split = 'train' WHERE id IN (SELECT picture FROM captions)"
    )


def splits_digest(catalog: sqlite3.Connection) -> str:
    """The identity of which picture is in which group and split."""
    digest = hashlib.blake2b(digest_size=16)
    for row in catalog.execute("SELECT id, grp, split FROM pictures ORDER BY id"):
        digest.update(repr(row).encode())
    return digest.hexdigest()


def refuse_too_many(catalog: sqlite3.Connection, limit: float) -> None:
    """Stop before any long stage when more pictures are unreadable than the user accepts."""
    bad = catalog.execute("SELECT count(*) FROM rejected").fetchone()[0]
    total = bad + catalog.execute("SELECT count(*) FROM paths").fetchone()[0]
    if bad <= limit * total and bad < total:
        return
    first = catalog.execute("SELECT path, reason FROM rejected ORDER BY path LIMIT 3").fetchall()
    some = "; ".join(f"{path}: {reason}" for path, reason in first)
    if bad == total:
        raise InputError(
            f"none of the {total:,} pictures can be read, so there is nothing to work on: {some}.",
            f"{total:,} 张图片全部无法读取，没有可处理的内容：{some}。",
        )
    enough = f"--max-rejected {bad / total + 0.005:.2f}"
    raise InputError(
        f"{bad:,} of {total:,} pictures cannot be read, more than --max-rejected {limit}: {some}. "
        f"Mend or remove them, or go on without them with {enough}.",
        f"{total:,} 张图片中有 {bad:,} 张无法读取，超过 --max-rejected {limit}：{some}。"
        f"请修复或移除它们，或用 {enough} 忽略它们。",
    )


# --- captions ---------------------------------------------------------------------------------


class Missing:
    """Captions whose picture was not found: how many, and the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def add(self, where: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(where)


def add_captions(
    catalog: sqlite3.Connection, root: str, captions: str, config: Config, stage: Stage
) -> Missing:
    """Add captions and the user's splits; returns what was said of pictures that are not there."""
    missing = Missing()
    if captions in ("names", "folder"):
        add_names(catalog, captions, config, stage)
    elif captions != "none":
        columns = {"picture_column": config.picture_column, "caption_column": config.caption_column}
        for sentence in layouts.describe(captions, **columns):
            stage.progress.tell(sentence)
        finder = layouts.Finder(catalog, root, captions)
        for row in layouts.read(captions, **columns):
            path = finder.find(row)
            if path is None:
                missing.add(f"{row.where}: {row.image or row.own_id}")
            else:
                texts = converted(row.captions, config.convert)
                split = row.split if row.captions else None
                making.attach(catalog, path, texts, split, row.own_id)
        if not catalog.execute("SELECT 1 FROM captions").fetchone():
            first = missing.first[0] if missing.first else captions
            raise InputError(
                f"no caption belongs to any picture under {root}; the first: {first}. Check "
                "--pictures.",
                f"没有任何描述对应 {root} 下的图片；第一条：{first}。请检查 --pictures。",
            )
    return missing


def add_names(catalog: sqlite3.Connection, captions: str, config: Config, stage: Stage) -> None:
    """File or folder names as captions; ten of them are shown before anything is trained."""

    def paths() -> Iterator[str]:
        return (row[0] for row in catalog.execute("SELECT path FROM paths ORDER BY path"))

    names = of_names(paths, folders=captions == "folder")
    text = pick(
        f"{names.captioned:,} names are captions, {names.without:,} are not; for example:",
        f"{names.captioned:,} 个名称作为描述，{names.without:,} 个不是；例如：",
    )
    shown = [f"  {path} → {convert(name, config.convert)}" for path, name in names.samples]
    stage.progress.tell("\n".join([text, *shown]))
    catalog.execute("CREATE TEMP TABLE named AS SELECT path FROM paths ORDER BY path")
    for (path,) in catalog.execute("SELECT path FROM named"):
        name = names.caption(path)
        if name:
            making.attach(catalog, path, converted((name,), config.convert))


def converted(texts: tuple[str, ...], how: str) -> Iterator[tuple[str, str | None]]:
    """(text to train on, what the user wrote where that differs)."""
    for text in texts:
        new = convert(text, how)
        yield new, text if new != text else None


# --- output -----------------------------------------------------------------------------------


def write_splits(
    catalog: sqlite3.Connection, collection: Collection, tsv: Path, stage: Stage, *, closed: bool
) -> None:
    """``{split}_imgs.tsv``, sorted by the id as text as LMDB wants, and ``{split}_texts.jsonl``.

    closed: valid and test hold views of the training pictures, under the same ids.
    """
    clear(tsv, "pairs")
    for split in SPLITS:
        source = "train" if closed else split
        total = catalog.execute(
            "SELECT count(*) FROM pictures WHERE split = ?", (source,)
        ).fetchone()[0]
        rows = catalog.execute(
            "SELECT id, (SELECT min(path) FROM paths WHERE picture = p.id), digest "
            "FROM pictures p WHERE split = ? ORDER BY CAST(id AS TEXT)",
            (source,),
        )
        label = f"{split}_imgs.tsv"
        with (tsv / label).open("wb") as file:
            pictures = read_ahead(collection, rows)
            for picture, data in stage.progress.track(pictures, label, total):
                if closed and split != "train":
                    data = view_of(data, seed=picture ^ SPLITS.index(split))
                file.write(tsv_line(picture, data))
        with (tsv / f"{split}_texts.jsonl").open("w", encoding="utf-8") as file:
            for text in texts_of(catalog, source):
                file.write(text.line())


def read_ahead(
    collection: Collection, rows: Iterable[tuple[int, str, bytes]]
) -> Iterator[tuple[int, bytes]]:
    """(id, bytes) of pictures in the order of ``rows`` (id, path, digest); where they lie far away,
    as many at a time as are worth it."""
    with ThreadPoolExecutor(collection.parallel) as pool:
        for part in batched(rows, 4 * collection.parallel):
            read = pool.map(lambda row: collection.read_unchanged(row[1], row[2]), part)
            yield from zip((row[0] for row in part), read, strict=True)


def view_of(data: bytes, seed: int) -> bytes:
    """A changed view of a picture's file, as PNG, which loses nothing more."""
    buffer = io.BytesIO()
    decoder.view(decoder.decode(data), seed).save(buffer, "PNG")
    return buffer.getvalue()


def texts_of(catalog: sqlite3.Connection, split: str) -> Iterator[Text]:
    """The captions of a split, each once, with all its pictures there."""
    query = (
        "SELECT t.id, t.text, group_concat(p.id) FROM captions c "
        "JOIN texts t ON t.id = c.text JOIN pictures p ON p.id = c.picture "
        "WHERE p.split = ? GROUP BY t.id ORDER BY t.id"
    )
    for key, text, ids in catalog.execute(query, (split,)):
        images = tuple(sorted(int(image) for image in ids.split(",")))
        yield Text(text_id=key, text=text, image_ids=images)


def describe(catalog: sqlite3.Connection, missing: Missing, context: int) -> dict[str, Any]:
    """What the report says, as data."""
    counts, details = making.count(catalog)
    tokenizer, cut, unknown = Tokenizer.chinese_bert(), 0, 0
    for part in batched(catalog.execute("SELECT text FROM texts"), 1000):
        more = tokenizer.cut_and_unknown([row[0] for row in part], context)
        cut, unknown = cut + more[0], unknown + more[1]
    details |= {
        "captions_without_picture": missing.count,
        "captions_cut": cut,
        "unknown_tokens": unknown,
    }
    rejected = catalog.execute(f"SELECT path, reason FROM rejected ORDER BY path LIMIT {SHOWN}")
    return {
        "counts": counts,
        "details": details,
        "rejected": rejected.fetchall(),
        "missing": missing.first,
        "passed_over": [],
    }


def write_report(out: Path, facts: dict[str, Any], config: Config) -> None:
    """``report.json`` and ``report.html``."""
    write_json(out / "report.json", facts)
    rows = [
        (name.replace("_", " "), f"{value:,}")
        for part in ("counts", "details")
        for name, value in facts[part].items()
    ]
    sections: list[report.Section] = []
    if config.split == "closed":
        sections.append(report.Paragraph(text=closed_note(), heading=pick("Split", "划分")))
    heads = (pick("what", "项目"), pick("number", "数量"))
    sections.append(report.Table(columns=heads, rows=rows))
    if facts["rejected"]:
        heads = (pick("picture set aside", "未采用的图片"), pick("reason", "原因"))
        sections.append(report.Table(columns=heads, rows=facts["rejected"]))
    if facts["missing"]:
        head = pick("caption whose picture was not found", "找不到图片的描述")
        sections.append(report.Table(columns=(head,), rows=[(row,) for row in facts["missing"]]))
    if facts["passed_over"]:
        heads = (pick("file passed over", "略过的文件"), pick("kind", "类别"))
        sections.append(report.Table(columns=heads, rows=facts["passed_over"]))
    report.write_html(out / "report.html", pick("The collection", "图文集概况"), sections)


def closed_note() -> str:
    """What kind of number a closed split gives."""
    return pick(
        "A naming task: every picture is trained on. Valid and test are changed views of these "
        "same pictures; figures say how well the names are told apart, not how well unseen "
        "pictures are found.",
        "命名任务：所有图片都参与训练。验证集与测试集是同一批图片的变化视图；"
        "指标说明名称能否区分，不代表对未见图片的检索效果。",
    )
