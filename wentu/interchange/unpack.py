"""Chinese-CLIP's TSV, JSONL and LMDB -> ordinary picture files and captions.

A picture becomes ``<image_id>.<extension>``, its bytes as they are, named by what they are and not
by what somebody called them. What was unpacked is remembered in an SQLite file, so memory does not
grow with the pictures. A file that is there already is never changed, so an unpacking that was cut
off goes on where it was.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wentu.captions.rows import clean_texts
from wentu.errors import InputError
from wentu.formats import bytes_digest
from wentu.interchange.jsonl import replacing
from wentu.interchange.sources import Sources, captions_of, count_pictures, pictures_of
from wentu.language import pick
from wentu.progress import Reporter

SHOWN = 3
"""Examples told of what was set aside."""
PICTURES = "pictures"
"""Folder of the pictures beside the captions."""
_KINDS: tuple[tuple[str, re.Pattern[bytes]], ...] = tuple(
    (extension, re.compile(start, re.DOTALL))
    for extension, start in (
        (".jpg", rb"\xff\xd8\xff"),
        (".png", rb"\x89PNG\r\n\x1a\n"),
        (".webp", rb"RIFF....WEBP"),
        (".gif", rb"GIF8[79]a"),
        (".bmp", rb"BM"),
        (".tiff", rb"II[*+]\0|MM\0[*+]"),
        (".avif", rb"....ftyp(avi[fs]|(mi|ms)f1.{4,60}avif)"),
        (".heic", rb"....ftyp(he[iv][cxms]|mi[fa][12f]|msf1|heif)"),
        (".jp2", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
        (".ppm", rb"P[1-6]\s"),
    )
)
_TABLES = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
CREATE TABLE pictures (image_id TEXT PRIMARY KEY, digest BLOB, path TEXT, place TEXT);
CREATE TABLE members (split TEXT, image_id TEXT, PRIMARY KEY (split, image_id)) WITHOUT ROWID;
CREATE TABLE captions (split TEXT, image_id TEXT, text TEXT);
CREATE INDEX captions_by_picture ON captions (image_id, split);
CREATE TABLE found (stem TEXT, name TEXT);
CREATE INDEX found_by_stem ON found (stem);
"""


def extension(data: bytes) -> str:
    """``.jpg`` and the like by a file's first bytes; empty where it is no picture we know."""
    return next((name for name, start in _KINDS if start.match(data[:80])), "")


@dataclass
class Counts:
    """What came of an unpacking."""

    pictures: int = 0
    """Written now."""
    there: int = 0
    """Files that held these bytes already, and repeated lines."""
    captions: int = 0
    set_aside: int = 0
    """No pictures, or no base64."""
    without_picture: int = 0
    """Captions that name a picture which is not there."""
    examples: list[str] = field(default_factory=list)
    """The first few of the last two, in words."""

    def note(self, sentence: str) -> None:
        """Keep an example."""
        if len(self.examples) < SHOWN:
            self.examples.append(sentence)

    def __str__(self) -> str:
        text = pick(
            f"{self.pictures:,} pictures written, {self.there:,} were there, "
            f"{self.captions:,} captions",
            f"写出 {self.pictures:,} 张图片，已存在 {self.there:,}，描述 {self.captions:,} 条",
        )
        if self.set_aside or self.without_picture:
            text += pick(
                f"; set aside: {self.set_aside:,} that are no pictures, {self.without_picture:,} "
                f"captions of pictures that are not there ({'; '.join(self.examples)})",
                f"；未采用：不是图片的 {self.set_aside:,} 项，找不到图片的描述 "
                f"{self.without_picture:,} 条({'；'.join(self.examples)})",
            )
        return text


class Unpacker:
    """Writes pictures into a folder and remembers in ``memory`` (an SQLite file) what is whose."""

    def __init__(self, memory: sqlite3.Connection, folder: Path) -> None:
        self.memory, self.folder, self.counts = memory, folder, Counts()
        folder.mkdir(parents=True, exist_ok=True)
        memory.executescript(_TABLES)
        known = {name for name, _ in _KINDS}
        here = (path for path in folder.iterdir() if path.suffix in known)
        memory.executemany("INSERT INTO found VALUES (?, ?)", ((p.stem, p.name) for p in here))

    def picture(self, split: str, where: str, image_id: int, encoded: bytes) -> None:
        """Write one picture, unless it is there."""
        try:
            # As its own readers do, both alphabets; a padding that was lost is no matter.
            data = base64.urlsafe_b64decode(encoded + b"==")
        except binascii.Error as error:
            return self._set_aside(where, pick(f"no base64 ({error})", f"不是 base64({error})"))
        kind, digest = extension(data), bytes_digest(data)
        if not kind:
            return self._set_aside(where, pick("no picture that we know", "不是可识别的图片"))
        query = "SELECT digest, place FROM pictures WHERE image_id = ?"
        before = self.memory.execute(query, (str(image_id),)).fetchone()
        if before and before[0] != digest:
            raise InputError(
                f"{where}: image_id {image_id} stands on another picture in {before[1]}. Give one "
                "of the two another id.",
                f"{where}：image_id {image_id} 在 {before[1]} 中对应另一张图片；"
                "请为其中一张更换 id。",
            )
        if before:
            self.counts.there += 1
        else:
            name = f"{image_id}{kind}"
            self._write(name, str(image_id), data, where)
            row = (str(image_id), digest, name, where)
            self.memory.execute("INSERT INTO pictures VALUES (?, ?, ?, ?)", row)
        self._member(split, str(image_id))

    def _write(self, name: str, stem: str, data: bytes, where: str) -> None:
        path = self.folder / name
        rows = self.memory.execute("SELECT name FROM found WHERE stem = ?", (stem,)).fetchall()
        for (other,) in rows:
            if other != name or path.read_bytes() != data:
                raise InputError(
                    f"{where}: {self.folder / other} is there and is another picture; name a new "
                    "folder, or remove that file.",
                    f"{where}：{self.folder / other} 已存在且是另一张图片；"
                    "请使用新目录或移除该文件。",
                )
        if rows:
            self.counts.there += 1
        else:
            _put(path, data)
            self.counts.pictures += 1

    def caption(self, split: str, image_ids: Sequence[int], text: str) -> None:
        """Remember what is said of pictures that were unpacked."""
        said = clean_texts([text])
        if not said:
            return
        query = "SELECT 1 FROM pictures WHERE image_id = ?"
        there = [str(i) for i in image_ids if self.memory.execute(query, (str(i),)).fetchone()]
        if not there:
            self.counts.without_picture += 1
            self.counts.note(pick(f"caption {said[0][:40]!r}", f"描述「{said[0][:40]}」"))
            return
        self.counts.captions += 1
        for image_id in there:
            row = (split, image_id, said[0])
            self.memory.execute("INSERT INTO captions VALUES (?, ?, ?)", row)
            self._member(split, image_id)

    def _member(self, split: str, image_id: str) -> None:
        self.memory.execute("INSERT OR IGNORE INTO members VALUES (?, ?)", (split, image_id))

    def _set_aside(self, where: str, reason: str) -> None:
        self.counts.set_aside += 1
        self.counts.note(f"{where}: {reason}")

    def take(self, sources: Sources, report: Reporter) -> Counts:
        """Unpack everything; pictures first, so that captions find those of any split."""
        label = pick("unpacking", "解包")
        for picture in report.track(pictures_of(sources), label, count_pictures(sources)):
            self.picture(*picture)
        for caption in captions_of(sources):
            self.caption(*caption)
        self.memory.commit()
        if not self.memory.execute("SELECT 1 FROM pictures").fetchone():
            raise InputError(
                f"there is no picture to unpack ({'; '.join(self.counts.examples) or 'empty'}).",
                f"没有可解包的图片({'；'.join(self.counts.examples) or '空文件'})。",
            )
        return self.counts


def _put(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all.

    Not flushed to disk: that was 2.5 of 3.5 ms, 40 minutes more for a million pictures. What a
    power cut damages does not have its bytes any more, and the next unpacking says so.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def unpack(sources: Sources, out: Path, report: Reporter) -> Counts:
    """``out/pictures/<image_id>.<extension>`` and ``out/{split}.json`` of its captions."""
    with closing(sqlite3.connect("")) as memory:  # a temporary file, not memory
        counts = Unpacker(memory, out / PICTURES).take(sources, report)
        write_captions(memory, sources, out, f"{PICTURES}/")
    return counts


def write_captions(
    memory: sqlite3.Connection, sources: Sources, out: Path, folder: str
) -> list[Path]:
    """Each split's captions as ``out/{split}.json``, in the style of Flickr8K-CN.

    Pictures come in their old order, those without a caption too: of a split without any captions
    nothing is written.

    Args:
        folder: of the pictures, as seen from ``out``; ends in a slash unless it is empty.
    """
    written = []
    for split in sources.captioned:
        if memory.execute("SELECT 1 FROM captions WHERE split = ?", (split,)).fetchone():
            written.append(out / f"{split}.json")
            with replacing(written[-1], ours=False) as file:
                before = "[\n"
                for row in _rows(memory, split, folder):
                    file.write(before + json.dumps(row, ensure_ascii=False))
                    before = ",\n"
                file.write("\n]\n")
    return written


def _rows(memory: sqlite3.Connection, split: str, folder: str) -> Iterator[dict[str, Any]]:
    rows = memory.execute(
        "SELECT p.image_id, p.path FROM members m JOIN pictures p USING (image_id) "
        "WHERE m.split = ? ORDER BY p.rowid",
        (split,),
    )
    query = "SELECT text FROM captions WHERE image_id = ? AND split = ? ORDER BY rowid"
    for image_id, name in rows:
        said = [text for (text,) in memory.execute(query, (image_id, split))]
        yield {"image": folder + name, "caption": said, "image_id": image_id}
