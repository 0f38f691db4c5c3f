"""pairs: captions of any layout + pictures -> catalog, three splits, TSV + JSONL, report.

Every picture is decoded once: what cannot be shown is set aside here, with its reason, before any
long stage. Splits are by group (pictures that are the same or nearly so), by a hash of the group,
and for good: what a picture was once given is kept in the store. The user's own split files win.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wentu import captions as layouts
from wentu import pictures as decoder
from wentu import report, splits
from wentu.clip.text import Tokenizer
from wentu.errors import InputError
from wentu.formats import (
    CATALOG,
    SPLITS,
    Manifest,
    Text,
    batched,
    create_catalog,
    digest_of,
    id_of,
    read_unchanged,
    text_id,
    tsv_line,
    write_json,
    write_manifest,
)
from wentu.language import pick
from wentu.settings import StageConfig, option
from wentu.stage import Stage, clear
from wentu.storage import collection_root
from wentu.store import Store

DECODE_AHEAD = 64


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
    max_rejected: float = option(
        0.05,
        "Stop when a larger share of the pictures cannot be read.",
        "无法读取的图片超过此比例时停止。",
    )
    context_length: int = option(
        52,
        "Tokens of a caption, [CLS] and [SEP] included; longer ones are cut.",
        "描述的最大词元数，含 [CLS] 与 [SEP];更长的会被截断。",
    )

    def check(self) -> None:
        for name in ("valid_fraction", "test_fraction", "max_rejected"):
            self.need(
                0 <= getattr(self, name) <= 1,
                name,
                "give a share from 0 to 1.",
                "应为 0 到 1 之间的比例。",
            )
        self.need(
            self.valid_fraction + self.test_fraction < 1,
            "valid_fraction",
            "with --test-fraction it leaves nothing to train on.",
            "与 --test-fraction 相加后没有留下训练数据。",
        )
        self.need(self.context_length >= 3, "context_length", "give 3 or more.", "至少为 3。")


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
    with Stage("pairs", out, config, inputs) as stage:
        root, vault = collection_root(pictures), Store(store)
        listed = [row for row in vault.inventory(inventory) if row[0] == "picture"]
        catalog = create_catalog(out / CATALOG)
        with closing(catalog):
            strange = [row for row in listed if not encodable(row[1])]
            listed = [row for row in listed if encodable(row[1])]
            add_pictures(catalog, root, listed, stage)
            reason = pick("its name is not valid UTF-8", "文件名不是合法的 UTF-8")
            names = (os.fsencode(row[1]).decode("utf-8", "backslashreplace") for row in strange)
            catalog.executemany("INSERT INTO rejected VALUES (?, ?)", [(n, reason) for n in names])
            refuse_too_many(catalog, config.max_rejected)
            missing = add_captions(catalog, root, listed, captions)
            if captions != "none":
                splits.assign(catalog, vault, config.valid_fraction, config.test_fraction)
            catalog.commit()
            # What was assigned depends on the store's history, not on this listing alone.
            rows = catalog.execute("SELECT id, grp, split FROM pictures ORDER BY id").fetchall()
            inputs["splits"] = digest_of(rows)
            facts = describe(catalog, missing, config.context_length)
            if tsv is not None:
                write_splits(catalog, root, tsv, stage)
                write_manifest(tsv, Manifest(stage="pairs", config=vars(config), inputs=inputs))
        write_report(out, facts)
        stage.counts |= facts["counts"]
        stage.tracker.artifact(out / "report.html")


# --- pictures ---------------------------------------------------------------------------------


def encodable(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def add_pictures(
    catalog: sqlite3.Connection, root: Path, listed: list[list[Any]], stage: Stage
) -> None:
    """Decode every picture once; equal files become one picture with several paths."""
    splits.prepare(catalog)
    files: dict[str, list[str]] = {}
    for _, path, _, digest in listed:
        files.setdefault(digest, []).append(path)
    # Digest order resolves a clash of ids (different bytes, same 63 bits) the same way every time.
    work = stage.report.track(
        decoded(root, sorted(files.items())), pick("decoding", "解码"), len(files)
    )
    for digest, paths, size, shape, outcome in work:
        if isinstance(outcome, str):
            catalog.executemany("INSERT INTO rejected VALUES (?, ?)", [(p, outcome) for p in paths])
            continue
        picture = free_id(catalog, id_of(bytes.fromhex(digest)))
        group = splits.group_of(catalog, picture, outcome)
        catalog.execute("INSERT INTO clusters VALUES (?, ?)", (picture, group))
        catalog.execute(
            "INSERT INTO pictures VALUES (?, ?, ?, ?, ?, ?, NULL)",
            (picture, bytes.fromhex(digest), *shape, size, group),
        )
        catalog.executemany("INSERT INTO paths VALUES (?, ?)", [(p, picture) for p in paths])


Decoded = tuple[str, list[str], int, tuple[int, int], "tuple[int, bytes] | str"]


def decoded(root: Path, files: list[tuple[str, list[str]]]) -> Iterator[Decoded]:
    """(digest, paths, bytes, (width, height), fingerprint or reason of refusal) of each file."""

    def one(item: tuple[str, list[str]]) -> Decoded:
        digest, paths = item
        try:
            data = (root / paths[0]).read_bytes()
            if hashlib.blake2b(data, digest_size=32).hexdigest() != digest:
                return digest, paths, 0, (0, 0), pick("changed during the run", "运行期间被修改")
            picture = decoder.decode(data)
            return digest, paths, len(data), picture.size, decoder.fingerprint(picture)
        except (decoder.PictureError, OSError) as error:
            return digest, paths, 0, (0, 0), str(error)

    with ThreadPoolExecutor() as pool:
        for part in batched(files, DECODE_AHEAD):  # bounds how many decoded pictures are alive
            yield from pool.map(one, part)


def free_id(catalog: sqlite3.Connection, wanted: int) -> int:
    """``wanted``, or the next id that no other picture has."""
    while catalog.execute("SELECT 1 FROM pictures WHERE id = ?", (wanted,)).fetchone():
        wanted = (wanted + 1) & (2**63 - 1)
    return wanted


def refuse_too_many(catalog: sqlite3.Connection, limit: float) -> None:
    """Stop before any long stage when more pictures are unreadable than the user accepts."""
    bad = catalog.execute("SELECT count(*) FROM rejected").fetchone()[0]
    total = bad + catalog.execute("SELECT count(*) FROM paths").fetchone()[0]
    if bad > limit * total or bad == total:
        path, reason = catalog.execute("SELECT path, reason FROM rejected ORDER BY path").fetchone()
        raise InputError(
            f"{bad:,} of {total:,} pictures cannot be read, more than --max-rejected {limit}; the "
            f"first: {path}: {reason}. Mend or remove them, or raise --max-rejected.",
            f"{total:,} 张图片中有 {bad:,} 张无法读取，超过 --max-rejected {limit}；第一张：{path}:"
            f"{reason}。请修复或移除它们，或调高 --max-rejected。",
        )


# --- captions ---------------------------------------------------------------------------------


def add_captions(
    catalog: sqlite3.Connection, root: Path, listed: list[list[Any]], captions: str
) -> list[str]:
    """Add captions and the user's splits; returns rows whose picture was not found."""
    paths = [row[1] for row in listed]
    missing: list[str] = []
    if captions == "names":
        for path in paths:
            _attach(catalog, path, layouts.of_name(path), None)
    elif captions != "none":
        finder = layouts.Finder(paths, root, captions)
        for row in layouts.read(captions):
            found = finder.find(row.image)
            if found is None:
                missing.append(f"{row.where}: {row.image}")
            else:
                _attach(catalog, found, row.captions, row.split)
        if not catalog.execute("SELECT 1 FROM captions").fetchone():
            first = missing[0] if missing else captions
            raise InputError(
                f"no caption belongs to any picture under {root}; the first: {first}. Check "
                "--pictures.",
                f"没有任何描述对应 {root} 下的图片；第一条：{first}。请检查 --pictures。",
            )
    return missing


def _attach(
    catalog: sqlite3.Connection, path: str, texts: tuple[str, ...], split: str | None
) -> None:
    row = catalog.execute("SELECT picture FROM paths WHERE path = ?", (path,)).fetchone()
    if row is None:
        return  # set aside as unreadable
    for text in texts:
        key = text_id(text)
        catalog.execute("INSERT OR IGNORE INTO texts VALUES (?, ?)", (key, text))
        catalog.execute("INSERT OR IGNORE INTO captions VALUES (?, ?)", (row[0], key))
    if split:
        catalog.execute("UPDATE pictures SET split = ? WHERE id = ?", (split, row[0]))


# --- output -----------------------------------------------------------------------------------


def write_splits(catalog: sqlite3.Connection, root: Path, tsv: Path, stage: Stage) -> None:
    """``{split}_imgs.tsv``, sorted by the id as text as LMDB wants, and ``{split}_texts.jsonl``."""
    clear(tsv)
    for split in SPLITS:
        query = (
            "SELECT p.id, min(f.path), p.digest FROM pictures p JOIN paths f ON f.picture = p.id "
            "WHERE p.split = ? GROUP BY p.id ORDER BY CAST(p.id AS TEXT)"
        )
        rows = catalog.execute(query, (split,)).fetchall()
        label = f"{split}_imgs.tsv"
        with (tsv / label).open("wb") as file:
            for picture, path, digest in stage.report.track(rows, label, len(rows)):
                file.write(tsv_line(picture, read_unchanged(root / path, digest)))
        with (tsv / f"{split}_texts.jsonl").open("w", encoding="utf-8") as file:
            for text in texts_of(catalog, split):
                file.write(text.line())


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


def describe(catalog: sqlite3.Connection, missing: list[str], context: int) -> dict[str, Any]:
    """What the report says, as data."""

    def one(query: str) -> int:
        return int(catalog.execute(query).fetchone()[0])

    texts = [row[0] for row in catalog.execute("SELECT text FROM texts")]
    cut, unknown = Tokenizer.chinese_bert().cut_and_unknown(texts, context) if texts else (0, 0)
    sizes = dict(
        catalog.execute(
            "SELECT split, count(*) FROM pictures WHERE split IS NOT NULL GROUP BY split"
        ).fetchall()
    )
    counts = {
        "pictures": one("SELECT count(*) FROM pictures"),
        "captions": len(texts),
        **{split: sizes.get(split, 0) for split in SPLITS},
        "rejected": one("SELECT count(*) FROM rejected"),
    }
    details = {
        "duplicate_files": one("SELECT count(*) FROM paths") - counts["pictures"],
        "near_duplicates": one("SELECT count(*) FROM clusters WHERE picture <> cluster"),
        "near_duplicates_in_several_splits": one(
            "SELECT count(*) FROM pictures a JOIN clusters b ON b.picture = a.id "
            "JOIN pictures c ON c.id = b.cluster WHERE a.split <> c.split"
        ),
        "without_caption": one(
            "SELECT count(*) FROM pictures WHERE id NOT IN (SELECT picture FROM captions)"
        ),
        "captions_without_picture": len(missing),
        "captions_on_several_pictures": one(
            "SELECT count(*) FROM (SELECT text FROM captions GROUP BY text HAVING count(*) > 1)"
        ),
        "captions_cut": cut,
        "unknown_tokens": unknown,
    }
    rejected = catalog.execute("SELECT path, reason FROM rejected ORDER BY path LIMIT 200")
    return {
        "counts": counts,
        "details": details,
        "rejected": rejected.fetchall(),
        "missing": missing[:200],
    }


def write_report(out: Path, facts: dict[str, Any]) -> None:
    """``report.json`` and ``report.html``."""
    write_json(out / "report.json", facts)
    rows = [
        (name.replace("_", " "), f"{value:,}")
        for part in ("counts", "details")
        for name, value in facts[part].items()
    ]
    heads = (pick("what", "项目"), pick("number", "数量"))
    sections: list[report.Section] = [report.Table(columns=heads, rows=rows)]
    if facts["rejected"]:
        heads = (pick("picture set aside", "未采用的图片"), pick("reason", "原因"))
        sections.append(report.Table(columns=heads, rows=facts["rejected"]))
    if facts["missing"]:
        head = pick("caption whose picture was not found", "找不到图片的描述")
        sections.append(report.Table(columns=(head,), rows=[(row,) for row in facts["missing"]]))
    report.write_html(out / "report.html", pick("The collection", "图文集概况"), sections)
