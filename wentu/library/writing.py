"""The state against the current release -> a segment, a release, the next pointer.

What a release says and the state does not is dead in its segment; what the state says and no
segment does is written anew, its vector copied where any segment has it. So a renamed picture moves
to the new segment, and is embedded no second time. A new segment takes in every older one that is
not much larger than it (and those that are mostly dead): each row is copied a few times in its
life, and there are few segments however often something changes.

Nothing points at a segment before it is whole and on the disk. Whoever is killed leaves the release
before; the next one compares again.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wentu import ann
from wentu.errors import WentuError
from wentu.formats import CATALOG, folder_sha256, open_catalog, read_json, write_json
from wentu.library.place import PART, Library, empty_release
from wentu.library.state import WAITING, State
from wentu.segments import Ids, ReadyVectors, copy_catalog, described
from wentu.store import Pointer, Release, SegmentRef, Store

GROWTH = 4
"""An older segment is taken in while it has at most so many times the rows that are written: then
segments grow by that factor, and a row is copied about log4 of all rows times."""

BESIDE = "beside.json"
"""Names the release that is made with another model than the current one's."""
Vector = npt.NDArray[np.float32]
Said = npt.NDArray[Any]
"""[N] (id, hash of what a catalog says of it), by id."""


@dataclass(kw_only=True)
class _Old:
    """A segment of the current release, beside what it would be in the next."""

    digest: str
    said: Said
    serves: Ids
    """[M] sorted ids that it goes on serving."""
    was: int
    """Ids that it serves now."""

    @property
    def ref(self) -> SegmentRef:
        """As the next release names it."""
        gone = np.setdiff1d(self.said["id"], self.serves, assume_unique=True)
        return SegmentRef(digest=self.digest, tombstones=tuple(gone.tolist()))


@dataclass(kw_only=True)
class Writer:
    """Publishes releases of one library; holds what segments say, which never changes."""

    library: Library
    state: State
    _said: dict[str, Said] = field(default_factory=dict)

    def publish(self, vectors: Mapping[int, Vector]) -> Release | None:
        """Make what the state says the current release, if it is not; that release.

        With another model than the current release's, releases are made beside it, and the first
        one that holds everything becomes current.

        Args:
            vectors: [D] of new pictures, by id. Pictures that have none, neither here nor in a
                segment, are left out, and read again.
        """
        store = self.library.store
        with store.storage.lock("promote"):
            current = store.current()
            assert current is not None, "a library has a release from its beginning"
            pointer, base = current
            beside = base.model != self.library.model
            if beside:
                base = self._beside()
            release = self._next(base, vectors)
            if release:
                store.write_release(release)
            if beside:
                if self.state.count(WAITING):
                    if release:
                        write_json(self.library.home / BESIDE, {"release": release.id})
                    return release
                release = release or base
                store.write_release(release)
            if release:
                number = pointer.number
                store.publish(release.id, after=number, reason="refresh", pinned=pointer.pinned)
                (self.library.home / BESIDE).unlink(missing_ok=True)
            return release

    def _beside(self) -> Release:
        """What there is of the release with the new model."""
        found = beside(self.library)
        return found if found and found.model == self.library.model else empty_release(self.library)

    def _next(self, base: Release, vectors: Mapping[int, Vector]) -> Release | None:
        """What follows a release, its new segment in the store; None where nothing changed."""
        old = self._old(base.segments)
        said = described(self.state.db)
        said = said[np.isin(said["id"], self.state.nameless(), invert=True)]
        for each in old:
            alive = np.intersect1d(said, each.said, assume_unique=True)["id"]
            each.serves = np.intersect1d(alive, each.serves, assume_unique=True)
        known = np.sort(np.concatenate([np.empty(0, np.int64), *(e.serves for e in old)]))
        writing = np.setdiff1d(said["id"], known, assume_unique=True)
        ready = ReadyVectors(self.library.store, tuple(each.digest for each in old))
        fresh = np.fromiter(vectors, np.int64, len(vectors))
        lost = writing[~(ready.holds(writing) | np.isin(writing, fresh))]
        if len(lost):
            self.state.forget(lost.tolist())
            writing = np.setdiff1d(writing, lost, assume_unique=True)
        if not len(writing) and all(len(each.serves) == each.was for each in old):
            return None
        kept, ids = absorb(old, writing)
        new = self._segment(ids, vectors, ready, base.dimension) if len(ids) else {}
        self._said = {each.digest: each.said for each in kept}
        return self._release(base, kept, new, len(known) + len(writing))

    def _old(self, segments: tuple[SegmentRef, ...]) -> list[_Old]:
        found = []
        for each in segments:
            said = self._said.get(each.digest)
            if said is None:
                catalog = self.library.store.segment(each.digest) / CATALOG
                with closing(open_catalog(catalog)) as db:
                    said = described(db)
                self._said[each.digest] = said
            dead = np.array(each.tombstones, np.int64)
            serves = np.setdiff1d(said["id"], dead, assume_unique=True)
            found.append(_Old(digest=each.digest, said=said, serves=serves, was=len(serves)))
        return found

    def _segment(
        self, ids: Ids, fresh: Mapping[int, Vector], ready: ReadyVectors, dimension: int
    ) -> dict[str, dict[str, str]]:
        """Write a segment of these pictures into the store: its digest -> SHA-256 by file."""
        store = self.library.store
        with tempfile.TemporaryDirectory(dir=self.library.home, prefix=PART) as folder:
            part = Path(folder) / "segment"
            part.mkdir()
            np.save(part / "ids.npy", ids)
            vectors = np.lib.format.open_memmap(
                part / "vectors.npy", mode="w+", dtype=np.float32, shape=(len(ids), dimension)
            )
            ready.copy(ids, vectors)
            for row, picture in enumerate(ids.tolist()):
                if picture in fresh:
                    vectors[row] = fresh[picture]
            vectors.flush()
            ann.make(vectors, part)
            copy_catalog(self.state.path, part / CATALOG, ids.tolist())
            for path in part.iterdir():
                flush(path)
            return {store.put_segment(part): folder_sha256(part)}

    def _release(
        self, base: Release, kept: list[_Old], new: dict[str, dict[str, str]], pictures: int
    ) -> Release:
        """The release of what is kept and what is new."""
        model = self.library.model
        keys = (f"models/{model}/", *(f"segments/{each.digest}/" for each in kept))
        files = {key: sha for key, sha in base.files.items() if key.startswith(keys)}
        files |= {
            f"segments/{digest}/{name}": sha
            for digest, shas in new.items()
            for name, sha in shas.items()
        }
        segments = (*(each.ref for each in kept), *(SegmentRef(digest=digest) for digest in new))
        return Release(
            model=model,
            segments=segments,
            inventory="",
            pictures=pictures,
            dimension=base.dimension,
            parameters={"pictures": self.library.root},
            files=files,
        )


def absorb(old: list[_Old], writing: Ids) -> tuple[list[_Old], Ids]:
    """(segments that stay, sorted ids of the new one): see the top of this file."""
    kept, parts, rows = [], [writing], len(writing)
    for each in sorted(old, key=lambda each: len(each.serves)):
        alive = len(each.serves)
        small = rows and alive <= GROWTH * rows
        wasteful = 3 * alive < 2 * len(each.said)
        if small or wasteful or not alive:
            parts.append(each.serves)
            rows += alive
        else:
            kept.append(each)
    kept.sort(key=old.index)
    return kept, np.sort(np.concatenate(parts))


def flush(path: Path) -> None:
    """Have a file on the disk before anything points at it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


# --- what nothing needs any more --------------------------------------------------------------

GRACE = 600.0
"""Seconds for which a release stays after the next one: a service may be about to open it."""


def collect(library: Library, state: State) -> None:
    """Remove what neither the current release, nor the one before, nor a recent one needs."""
    store = library.store
    before = store.storage.now() - GRACE
    with store.storage.lock("promote"):
        kept = _kept(store, before)
        made = beside(library)
        releases = [*kept.values(), *([made] if made else [])]
        needed = {
            # What points goes before what it points at.
            "pointer": {f"{pointer.number:08d}.json" for pointer in kept},
            "releases": {f"{release.id}.json" for release in releases},
            "segments": {each.digest for release in releases for each in release.segments},
            # Another process may have given the library another model meanwhile.
            "models": {library.now().model, *(release.model for release in releases)},
        }
        for kind, names in needed.items():
            for name in set(store.storage.list(kind)) - names:
                if name.endswith(".json"):
                    store.storage.delete([f"{kind}/{name}"])
                else:
                    store.storage.remove(f"{kind}/{name}")
        gone = state.gone(before)
        store.storage.delete(store.thumbnail_key(each) for each in gone)
        state.cleared(gone)


def _kept(store: Store, before: float) -> dict[Pointer, Release]:
    """The releases that stay, by their pointers: replaced after ``before``, and the last two."""
    history = store.history()
    times = [
        (store.storage.home / f"pointer/{p.number:08d}.json").stat().st_mtime for p, _ in history
    ]
    replaced = [*times[1:], before + 1]
    return {
        pointer: release
        for number, (pointer, release) in enumerate(history)
        if replaced[number] > before or number >= len(history) - 2
    }


def beside(library: Library) -> Release | None:
    """The release that is being made with another model; None where there is none."""
    try:
        return library.store.release(read_json(library.home / BESIDE)["release"])
    except WentuError:
        return None
