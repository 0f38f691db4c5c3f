"""What a collection's owner keeps: models, segments, releases, and the pointer to the current one.

    models/<digest>/          a model bundle (ONNX, tokenizer, preprocessing)
    segments/<digest>/        vectors.npy, ids.npy, catalog.sqlite, index.faiss; never changed
                              (and index.json beside an index that is not exact)
    calibrations/<digest>/    known.npy, units.json: what a query is judged by
    thumbnails/<2 hex>/<id>.jpg
    inventories/<digest>.jsonl.gz   what the collection held
    inventories/<digest>.marks.jsonl.gz   sizes and ETags that its digests were read under (s3://)
    inventories/<digest>.forgotten.jsonl.gz   the same without what was deleted since, but its count
    splits/<n>.jsonl.gz       which split each group was given, for good
    attempts/<n>.json         trainings that were tried, whatever came of them
    releases/<id>.json        a model and the segments embedded by it, with every file's digest
    releases/<id>.compacted.json    what gc left of it: no picture that was deleted since
    pointer/<n>.json          created, never changed; the highest number is current
    work/<digest>/            training state that survives a crash
    parts/<digest>/           LMDB or weights of a training on several machines (s3://)
    trainings/<key>/          job.json: what these machines train; failure.json: why it was in vain
    library/                  what a folder that is followed was known by: see wentu/library
    runs/<id>/                logs, artifacts and run.json of one pipeline run

The pointer is the truth. To publish is to create the next number; of two that try, one gets it and
the other learns that what it compared with is no longer current.
"""

from __future__ import annotations

import gzip
import json
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wentu.errors import FormatError, InputError, ServiceError, StaleError
from wentu.formats import FORMAT, STORE_MARK, digest_of, folder_sha256, parse_json
from wentu.listing import Listing, lines_of, write_lines
from wentu.storage import is_remote, open_storage

COMPACT_ABOVE = 8
"""Segments beyond which the next release is written as one."""


def now() -> str:
    """UTC, to the second, ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, kw_only=True)
class SegmentRef:
    """A segment in a release, and the ids in it that no longer count (deleted or replaced)."""

    digest: str
    tombstones: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Release:
    """A model and what it embedded, as it is served. Its id is the digest of its content."""

    model: str
    """Digest of the bundle in models/."""
    segments: tuple[SegmentRef, ...]
    inventory: str
    """Digest of the inventory that it covers."""
    pictures: int
    dimension: int
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """What the run was called with: lets a rollback refresh the same collection."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Recall of the model on the test split, 0..1, and ``verdict/…``: the numbers that it was
    released for; empty where there was none."""
    split_version: str = ""
    """Metrics of two releases are comparable where this is equal."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of every file, by key in the store."""
    calibration: Mapping[str, Any] = field(default_factory=dict)
    """What a score means for this model and these pictures, see ``wentu.calibration``; empty in
    releases of earlier versions."""
    index: Mapping[str, Any] = field(default_factory=dict)
    """``recall_at_10`` of the newest segment's index; empty where it was not recorded."""
    format: int = FORMAT

    @property
    def id(self) -> str:
        """16 hex digits."""
        value = asdict(self)
        for name in ("calibration", "index"):  # which releases of earlier versions do not have
            if not value[name]:
                del value[name]
        return digest_of(value)[:16]


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """One number of pointer/: which release is current since when, and why."""

    number: int
    release: str
    reason: str
    """train, refresh, rollback, unpin or gc."""
    pinned: bool = False
    """True after a rollback: trainings are refused promotion until it is unpinned."""
    created: str = ""
    format: int = FORMAT


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A training that was started: changes are counted from here, also when it was refused."""

    inventory: str
    settings: str
    """Digest of everything that shapes the trained model."""
    pictures: int
    created: str = ""
    format: int = FORMAT


def _known(value: dict[str, Any], what: str) -> dict[str, Any]:
    if value.get("format") != FORMAT:
        raise FormatError(
            f"{what} has format {value.get('format')}; this wentu reads {FORMAT}. Update wentu.",
            f"{what} 的格式版本是 {value.get('format')}，本版 wentu 只读 {FORMAT}，请升级。",
        )
    return value


class Store:
    """The owner's folder; see the top of this file for what is where."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.storage = open_storage(place)

    def claim(self) -> None:
        """Mark the place as a store, so that no walk takes what is in it for pictures.

        Raises ServiceError where the place cannot tell who of several was first, on which all
        promises of a store rest.
        """
        if self.storage.exists(STORE_MARK):
            return
        mark = json.dumps({"format": FORMAT, "id": uuid.uuid4().hex}).encode()
        if self.storage.create(STORE_MARK, mark) and self.storage.create(STORE_MARK, mark):
            raise ServiceError(
                f"{self.place}: this object store replaces what should only be created "
                "(If-None-Match); a store cannot be kept there.",
                f"{self.place}：该对象存储会覆盖只应新建的对象(If-None-Match)，不能存放仓库。",
            )

    @property
    def id(self) -> str:
        """Of this store and no other that was here before; empty for old ones."""
        return str(self._json(STORE_MARK).get("id", ""))

    # --- content-addressed parts ---------------------------------------------------------------

    def put_model(self, bundle: Path, digest: str) -> None:
        """Keep a bundle under its digest."""
        self.storage.put_folder(bundle, f"models/{digest}")

    def model(self, digest: str) -> Path:
        """The folder of a bundle."""
        return self._folder(f"models/{digest}")

    def model_uri(self, digest: str) -> str:
        """Where a bundle lies, for others to note: file:// or s3://."""
        if is_remote(self.place):
            return f"{self.place.rstrip('/')}/models/{digest}"
        return self.model(digest).absolute().as_uri()

    def put_segment(self, folder: Path) -> str:
        """Keep a segment; returns its digest, that of its files' SHA-256."""
        digest = digest_of(folder_sha256(folder))
        self.storage.put_folder(folder, f"segments/{digest}")
        return digest

    def segment(self, digest: str) -> Path:
        """The folder of a segment."""
        return self._folder(f"segments/{digest}")

    def put_calibration(self, folder: Path) -> str:
        """Keep what a calibration needs; returns its digest."""
        digest = digest_of(folder_sha256(folder))
        self.storage.put_folder(folder, f"calibrations/{digest}")
        return digest

    def calibration(self, digest: str) -> Path:
        """The folder of one."""
        return self._folder(f"calibrations/{digest}")

    def _folder(self, key: str) -> Path:
        try:
            return self.storage.folder(key)
        except InputError:
            raise FormatError(
                f"{self.place} lacks {key}.", f"{self.place} 中缺少 {key}。"
            ) from None

    def _json(self, key: str) -> Any:
        return parse_json(self.storage.read(key), f"{self.place}/{key}")

    @staticmethod
    def thumbnail_key(picture: int) -> str:
        """Key of a picture's thumbnail: 256 folders, so that none grows too large."""
        return f"thumbnails/{picture >> 55:02x}/{picture}.jpg"

    # --- inventories, splits, attempts ---------------------------------------------------------

    def put_lines(self, key: str, rows: Iterable[Any]) -> bool:
        """Create a gzipped JSONL object; False where it exists."""
        if self.storage.exists(key):
            return False
        with tempfile.TemporaryDirectory() as folder:
            packed = Path(folder) / "lines"
            write_lines(packed, rows)
            return self.storage.create(key, packed)

    def lines(self, key: str) -> Iterator[Any]:
        """The rows of a gzipped JSONL object, streamed."""
        with (
            self.storage.open(key) as raw,
            gzip.open(raw, "rt", encoding="utf-8", errors="surrogatepass") as file,
        ):
            for line in file:
                yield json.loads(line)

    def put_inventory(self, listing: Listing, passed_over: Iterable[Any]) -> None:
        """Keep a listing, and examples of what lay beside the pictures: (path, kind)."""
        self.put_lines(f"inventories/{listing.digest}.passed.jsonl.gz", passed_over)
        key = f"inventories/{listing.digest}.jsonl.gz"
        if not self.storage.exists(key):
            self.storage.create(key, listing.path)

    def put_marks(self, digest: str, rows: Iterable[Any]) -> None:
        """Keep what each file of a listing was known by; the first to say it is believed."""
        self.put_lines(f"inventories/{digest}.marks.jsonl.gz", rows)

    def marks(self, digest: str) -> Iterator[Any]:
        """What ``put_marks`` kept; nothing where it did not."""
        key = f"inventories/{digest}.marks.jsonl.gz"
        return self.lines(key) if self.storage.exists(key) else iter(())

    def passed_over(self, digest: str) -> list[Any]:
        """Examples of files beside the pictures of a listing: [path, kind]."""
        key = f"inventories/{digest}.passed.jsonl.gz"
        return list(self.lines(key)) if self.storage.exists(key) else []

    def inventory(self, digest: str) -> Iterator[Any]:
        """The rows of an inventory; InputError where the store has no such one.

        One that gc went over has a row ["forgotten", n] for the n pictures deleted since.
        """
        return self.lines(self._inventory_key(digest))

    def inventory_lines(self, digest: str) -> Iterator[bytes]:
        """The same, as its lines lie there."""
        with self.storage.open(self._inventory_key(digest)) as raw:
            yield from lines_of(raw)

    def _inventory_key(self, digest: str) -> str:
        key = f"inventories/{digest}.jsonl.gz"
        if not self.storage.exists(key):
            key = f"inventories/{digest}.forgotten.jsonl.gz"
        if not self.storage.exists(key):
            raise InputError(
                f"{self.place} has no inventory {digest}; run `wentu inventory` first.",
                f"{self.place} 中没有清单 {digest}，请先运行 wentu inventory。",
            )
        return key

    def assignments(self) -> Iterator[tuple[int, int, str]]:
        """(picture id, group, split) of every picture that was ever given a split."""
        for name in self.storage.list("splits"):
            for picture, group, split in self.lines(f"splits/{name}"):
                yield int(picture), int(group), split

    def add_assignments(self, rows: Callable[[], Iterable[Any]]) -> None:
        """Remember the splits of new pictures, for good; ``rows`` is asked again after a race."""
        number = sum(1 for _ in self.storage.list("splits")) + 1
        while not self.put_lines(f"splits/{number:08d}.jsonl.gz", rows()):
            number += 1

    def record_attempt(self, attempt: Attempt) -> str:
        """Remember that a training was started; returns its number, as text.

        One like the last, if that came to no verdict, is the same one going on.
        """
        last = self.last_attempt()
        same = last and (last.inventory, last.settings) == (attempt.inventory, attempt.settings)
        if same and not self.attempt_ended():
            return self._attempts()[-1]
        data = json.dumps(asdict(attempt) | {"created": now()}, indent=2).encode()
        number = len(self._attempts()) + 1
        while not self.storage.create(f"attempts/{number:08d}.json", data):
            number += 1
        return f"{number:08d}"

    def _attempts(self) -> list[str]:
        names = self.storage.list("attempts")
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]

    def last_attempt(self) -> Attempt | None:
        """The newest training that was started."""
        numbers = self._attempts()
        if not numbers:
            return None
        key = f"attempts/{numbers[-1]}.json"
        return Attempt(**_known(self._json(key), key))

    def end_attempt(self, number: str) -> None:
        """Remember that a training came to a verdict, whatever it was."""
        self.storage.create(f"attempts/{number}.ended", b"")

    def attempt_ended(self) -> bool:
        """Did the newest training come to a verdict?"""
        return self.storage.exists(f"attempts/{self._attempts()[-1]}.ended")

    # --- releases and the pointer --------------------------------------------------------------

    def files_of(
        self,
        model: str,
        segments: Iterable[SegmentRef],
        calibration: Mapping[str, Any] | None = None,
    ) -> dict[str, str]:
        """SHA-256 of every file of a release, by key."""
        keys = [f"models/{model}", *(f"segments/{segment.digest}" for segment in segments)]
        keys += [f"calibrations/{calibration['known']}"] if calibration else []
        return {
            f"{key}/{name}": sha
            for key in keys
            for name, sha in folder_sha256(self._folder(key)).items()
        }

    def write_release(self, release: Release) -> str:
        """Write a release (that is not current yet); the same content is the same id."""
        value = asdict(release) | {"id": release.id, "created": now()}
        data = json.dumps(value, ensure_ascii=False, indent=2).encode()
        self.storage.create(f"releases/{release.id}.json", data)
        return release.id

    def release(self, identity: str) -> Release:
        """A release by its id."""
        key = self._release_key(identity)
        if not key:
            names = self.storage.list("releases")
            known = sorted({name.split(".")[0] for name in names if name.endswith(".json")})
            raise InputError(
                f"no release {identity}; known: {', '.join(known) or 'none'}.",
                f"没有版本 {identity}；已有：{', '.join(known) or '无'}。",
            )
        value = _known(self._json(key), key)
        value.pop("created"), value.pop("id")
        value["segments"] = tuple(
            SegmentRef(digest=s["digest"], tombstones=tuple(s["tombstones"]))
            for s in value["segments"]
        )
        try:
            return Release(**value)
        except TypeError as error:  # of a later version
            raise FormatError(
                f"{key} cannot be read ({error}). Update wentu.",
                f"无法读取 {key}({error})。请升级 wentu。",
            ) from None

    def _release_key(self, identity: str) -> str:
        keys = (f"releases/{identity}{end}" for end in (".json", ".compacted.json"))
        return next((key for key in keys if self.storage.exists(key)), "")

    def put_compacted(self, identity: str, release: Release) -> None:
        """Keep what is to stand for the release ``identity`` once that is removed."""
        value = asdict(release) | {"id": release.id, "created": now()}
        data = json.dumps(value, ensure_ascii=False, indent=2).encode()
        self.storage.write(f"releases/{identity}.compacted.json", data)

    def pointer(self, number: int | None = None) -> Pointer | None:
        """The pointer of that number, else the current one; None where nothing was published."""
        names = [name for name in self.storage.list("pointer") if name.endswith(".json")]
        if number is not None:
            names = [name for name in names if int(name.split(".")[0]) == number]
        if not names:
            return None
        key = f"pointer/{names[-1]}"
        return Pointer(**_known(self._json(key), key))

    def pointers(self) -> list[Pointer]:
        """Every pointer, oldest first."""
        numbers = [int(name.split(".")[0]) for name in self.storage.list("pointer")]
        return [p for p in map(self.pointer, numbers) if p is not None]

    def history(self) -> list[tuple[Pointer, Release]]:
        """Every pointer whose release was not removed by gc, oldest first, with that release."""
        found: dict[str, Release | None] = {}
        for pointer in (every := self.pointers()):
            if pointer.release not in found:
                there = self._release_key(pointer.release)
                found[pointer.release] = self.release(pointer.release) if there else None
        return [(each, kept) for each in every if (kept := found[each.release])]

    def current(self) -> tuple[Pointer, Release] | None:
        """The current pointer and its release."""
        pointer = self.pointer()
        return (pointer, self.release(pointer.release)) if pointer else None

    def publish(self, release: str, *, after: int, reason: str, pinned: bool = False) -> Pointer:
        """Make ``release`` current, if pointer ``after`` still is (0: nothing published yet).

        Raises StaleError where somebody else published meanwhile.
        """
        number = after + 1
        pointer = Pointer(
            number=number, release=release, reason=reason, pinned=pinned, created=now()
        )
        data = json.dumps(asdict(pointer), indent=2).encode()
        if not self.storage.create(f"pointer/{number:08d}.json", data):
            raise StaleError(
                f"another release became current meanwhile (pointer {number}); this comparison is "
                "stale. Run again to evaluate against it.",
                f"期间另一个版本已成为当前版本(指针 {number})，本次比较已过期；请重新运行评估。",
            )
        return pointer

    def verify(self, release: Release) -> None:
        """Check every file of a release against its SHA-256; FormatError names the first wrong."""
        for key, expected in release.files.items():
            if self.storage.sha256(key) != expected:
                raise FormatError(
                    f"{self.place}/{key} is missing or was changed; roll back or refresh.",
                    f"{self.place}/{key} 缺失或已被改动；请回滚或刷新。",
                )

    def work(self, digest: str) -> AbstractContextManager[Path]:
        """A folder that survives crashes, held by one process at a time."""
        return self.storage.work(digest)


def read_reuse(folder: Path) -> tuple[str, int, tuple[SegmentRef, ...]]:
    """(model digest, dimension, segments that stay) of an output of features."""
    value = json.loads((folder / "reuse.json").read_text(encoding="utf-8"))
    kept = tuple(
        SegmentRef(digest=s["digest"], tombstones=tuple(s["tombstones"])) for s in value["segments"]
    )
    return value["model"], value["dimension"], kept
