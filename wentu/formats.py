"""Every file that crosses a stage: manifest, catalog, TSV + JSONL, LMDB.

The exact forms are Chinese-CLIP's where it has one, so that a user can enter or leave anywhere:
``{split}_imgs.tsv``, ``{split}_texts.jsonl`` and ``lmdb/{split}/{pairs,imgs}``. The catalog is
ours: one SQLite file that knows every picture, its paths, captions and split, in bounded memory.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import pickle
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

from wentu.errors import FormatError, InputError

Item = TypeVar("Item")

FORMAT = 2
"""Version of every file of ours; another version is refused with a sentence."""
SPLITS = ("train", "valid", "test")
MANIFEST = "manifest.json"
CATALOG = "catalog.sqlite"
STORE_MARK = "wentu-store.json"
"""What a store has at its top; a store inside the collection is passed over."""


# --- bytes, digests, ids ----------------------------------------------------------------------


def digest_of(value: object) -> str:
    """32 hex digits of BLAKE2b over the canonical JSON of ``value``."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def bytes_digest(data: bytes) -> bytes:
    """BLAKE2b-256 of a picture's file: its identity."""
    return hashlib.blake2b(data, digest_size=32).digest()


def id_of(digest: bytes) -> int:
    """The 63-bit id of a digest: its first eight bytes, big-endian, without the sign bit."""
    return int.from_bytes(digest[:8], "big") & (2**63 - 1)


def text_id(text: str) -> int:
    """The 63-bit id of a caption: from its bytes, so that equal captions are one text."""
    return id_of(bytes_digest(text.encode("utf-8", "surrogatepass")))


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sha256(folder: Path, *, manifest: bool = False) -> dict[str, str]:
    """Hex SHA-256 of every file under ``folder``, by relative POSIX path.

    manifest: also of its manifest, which tells when it was made and is no part of what it is.
    """
    return {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (manifest or path.name != MANIFEST)
    }


@contextmanager
def replacing(path: Path | str) -> Iterator[IO[bytes]]:
    """A file that takes ``path``'s place when it is whole and on the disk, and else never."""
    # Not by pathlib, which keeps every name that it ever saw: a million thumbnails have some.
    folder, name = os.path.split(path)
    os.makedirs(folder or ".", exist_ok=True)
    temporary = f"{folder or '.'}/.{name}.{os.getpid()}-{threading.get_ident()}.tmp"
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_atomic(path: Path | str, data: bytes) -> None:
    """Write to a temporary name beside ``path``, flush to disk, rename."""
    with replacing(path) as file:
        file.write(data)


def write_json(path: Path, value: object) -> None:
    """Readable JSON, written atomically."""
    text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
    write_atomic(path, text.encode("utf-8", "surrogatepass"))


def read_json(path: Path) -> Any:
    """The value in a JSON file; FormatError with line and column where it is broken."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.", f"{path} 不存在。") from None
    return parse_json(data, str(path))


def parse_json(data: bytes, path: str) -> Any:
    """The same of bytes that were read from ``path``."""
    try:
        return json.loads(data.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise FormatError(
            f"{path} is not valid JSON: {error.msg} at {where}.",
            f"{path} 不是合法的 JSON：第 {error.lineno} 行第 {error.colno} 列：{error.msg}。",
        ) from None
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8.",
            f"{path} 不是 UTF-8 编码(第 {error.start} 字节)，请另存为 UTF-8。",
        ) from None


# --- manifest ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Written last into a stage's output: that it exists means that the stage finished."""

    stage: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    """Name of each input -> its digest."""
    counts: Mapping[str, Any] = field(default_factory=dict)
    code_version: str = ""
    seconds: float = 0.0
    format: int = FORMAT

    @property
    def digest(self) -> str:
        """Where the output came from, in 32 hex digits: stage, Config and inputs."""
        return digest_of([self.format, self.stage, dict(self.config), dict(self.inputs)])


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Declare a stage's output finished."""
    write_json(folder / MANIFEST, asdict(manifest) | {"digest": manifest.digest})


def read_manifest(folder: Path, stage: str | None = None) -> Manifest:
    """The manifest of a finished output of ``stage`` (None: of any stage)."""
    path = folder / MANIFEST
    if not path.exists():
        raise FormatError(
            f"{folder} is not finished: it has no {MANIFEST}. Run the stage that writes it again.",
            f"{folder} 没有完成：缺少 {MANIFEST}。请重新运行产生它的阶段。",
        )
    value = read_json(path)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        value = value if isinstance(value, dict) else {}
        raise FormatError(
            f"{path} has format {value.get('format')}, this wentu reads {FORMAT}; "
            "use the wentu that wrote it, or run the stage again.",
            f"{path} 的格式版本是 {value.get('format')}，本版只读 {FORMAT}；请重新运行该阶段。",
        )
    value.pop("digest", None)
    try:
        manifest = Manifest(**value)
    except TypeError as error:
        raise FormatError(f"{path} is damaged: {error}.", f"{path} 已损坏：{error}。") from None
    if stage is not None and manifest.stage != stage:
        raise InputError(
            f"{folder} was written by the stage {manifest.stage}; here one of {stage} is needed.",
            f"{folder} 是 {manifest.stage} 阶段的输出，这里需要 {stage} 阶段的输出。",
        )
    return manifest


# --- catalog ----------------------------------------------------------------------------------

_SCHEMA = f"""
PRAGMA user_version = {FORMAT};
CREATE TABLE pictures (id INTEGER PRIMARY KEY, digest BLOB NOT NULL, width INTEGER NOT NULL,
    height INTEGER NOT NULL, bytes INTEGER NOT NULL, grp INTEGER NOT NULL, split TEXT,
    own_id TEXT NOT NULL DEFAULT '');
CREATE TABLE paths (path TEXT PRIMARY KEY, picture INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE texts (id INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE captions (picture INTEGER, text INTEGER, original TEXT,
    PRIMARY KEY (picture, text)) WITHOUT ROWID;
CREATE TABLE rejected (path TEXT PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE moments (picture INTEGER PRIMARY KEY, taken TEXT, added TEXT);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX paths_by_picture ON paths (picture);
CREATE INDEX captions_by_text ON captions (text);
"""


def create_catalog(path: Path) -> sqlite3.Connection:
    """A new, empty catalog; the caller commits and closes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    # A small cache: else the first 2 MB stay in memory (see splits.prepare for temporary tables).
    settings = "journal_mode = OFF", "synchronous = OFF", "cache_size = -256"
    connection.executescript("".join(f"PRAGMA {each};" for each in settings) + _SCHEMA)
    return connection


def open_catalog(path: Path) -> sqlite3.Connection:
    """A catalog to read; FormatError when it is missing or of another version."""
    if not path.exists():
        raise FormatError(f"{path} does not exist.", f"{path} 不存在。")
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False
    )
    try:
        # Mapped: the system's memory, which it can take back, instead of a cache of ours.
        connection.executescript("PRAGMA mmap_size = 2147418112; PRAGMA cache_size = -256;")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.DatabaseError:
        version = None
    if version != FORMAT:
        connection.close()
        raise FormatError(
            f"{path} is no catalog of format {FORMAT} (found {version}).",
            f"{path} 不是格式 {FORMAT} 的目录文件(实际为 {version})。",
        )
    return connection


def facts(path: Path) -> dict[str, str]:
    """What holds for a whole catalog: ``convert``, and ``split`` (open or closed)."""
    with closing(open_catalog(path)) as catalog:
        return dict(catalog.execute("SELECT name, value FROM facts").fetchall())


# --- TSV + JSONL ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Text:
    """One line of ``{split}_texts.jsonl``: a caption and the pictures it stands on."""

    text_id: int
    text: str
    image_ids: tuple[int, ...]

    def line(self) -> str:
        """Its JSON line, with the line break."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


def tsv_line(image_id: int, data: bytes) -> bytes:
    """One line of ``{split}_imgs.tsv``; the picture's own bytes, never encoded again."""
    return b"%d\t%s\n" % (image_id, base64.urlsafe_b64encode(data))


def read_tsv(path: Path) -> Iterator[tuple[int, bytes]]:
    """(image id, base64 of its file) per line of an ``_imgs.tsv``, streamed."""
    with path.open("rb", buffering=1 << 20) as file:  # lines are pictures: 8 KiB are few
        for number, line in enumerate(file, 1):
            identity, tab, data = line.rstrip(b"\r\n").partition(b"\t")
            if not tab or b"\t" in data or not identity.strip().removeprefix(b"-").isdigit():
                raise FormatError(
                    f"{path}, line {number}: expected an integer id, a tab and base64.",
                    f"{path} 第 {number} 行：应为「整数 id、制表符、base64」。",
                )
            yield int(identity), data


def read_texts(path: Path) -> Iterator[Text]:
    """The captions of a ``_texts.jsonl``, streamed."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line.decode())  # bytes would have their encoding guessed
                if value["text"] is None or not isinstance(value["image_ids"], list):
                    raise TypeError("text: a text, image_ids: a list")
                yield Text(
                    text_id=int(value["text_id"]),
                    text=str(value["text"]),
                    image_ids=tuple(int(image) for image in value["image_ids"]),
                )
            except (ValueError, KeyError, TypeError) as error:
                raise FormatError(
                    f"{path}, line {number}: expected text_id, text and image_ids ({error!r}).",
                    f"{path} 第 {number} 行：应含 text_id、text、image_ids({error!r})。",
                ) from None


# --- LMDB -------------------------------------------------------------------------------------


class _NoClasses(pickle.Unpickler):
    """Reads tuples of numbers and strings; a file that names any class is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise FormatError(
            f"an LMDB value names {module}.{name}; only (image_id, text_id, text) is read.",
            f"LMDB 中的值引用了 {module}.{name}；只接受 (image_id, text_id, text)。",
        )


class PairsLmdb:
    """One split of a Chinese-CLIP LMDB, opened to read; safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        import lmdb

        for name in ("pairs", "imgs"):
            if not (folder / name / "data.mdb").exists():
                raise InputError(
                    f"{folder} holds no LMDB {name}.", f"{folder} 中没有 LMDB {name}。"
                )
        self.folder = folder
        options = {"readonly": True, "lock": False, "readahead": False, "meminit": False}
        self._pairs = lmdb.open(str(folder / "pairs"), **options)
        self._imgs = lmdb.open(str(folder / "imgs"), **options)

    def close(self) -> None:
        """Close both databases."""
        self._pairs.close()
        self._imgs.close()

    def __enter__(self) -> PairsLmdb:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _get(self, env: Any, key: str) -> bytes:
        with env.begin() as transaction:
            value: bytes | None = transaction.get(key.encode())
        if value is None:
            raise FormatError(
                f"{self.folder}: the key {key!r} is missing; pack it again.",
                f"{self.folder}：缺少键 {key!r}，请重新打包。",
            )
        return value

    def __len__(self) -> int:
        return int(self._get(self._pairs, "num_samples"))

    @property
    def num_images(self) -> int:
        """How many distinct pictures it declares."""
        return int(self._get(self._imgs, "num_images"))

    def pair(self, index: int) -> tuple[int, int, str]:
        """(image id, text id, caption) of pair ``index``."""
        try:
            value = _NoClasses(io.BytesIO(self._get(self._pairs, str(index)))).load()
            image, text, caption = value
            return int(image), int(text), str(caption)
        except (pickle.UnpicklingError, EOFError, ValueError, TypeError) as error:
            raise FormatError(f"{self.folder}: pair {index} is damaged ({error}).") from None

    def pairs(self) -> list[tuple[int, int, str]]:
        """All pairs in the order of their numbers."""
        return [self.pair(index) for index in range(len(self))]

    def picture(self, image_id: int) -> bytes:
        """The original file of a picture."""
        return base64.urlsafe_b64decode(self._get(self._imgs, str(image_id)))


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of ``size`` items, the last one shorter."""
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def count_rows(path: Path, table: str) -> int:
    """Rows of one table of a catalog."""
    with closing(open_catalog(path)) as catalog:
        return int(catalog.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
