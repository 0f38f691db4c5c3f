"""Folders of small pictures, and what a library must hold of one: worked out the obvious way."""

from __future__ import annotations

import io
import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from wentu.clip.bundle import Bundle
from wentu.formats import bytes_digest, id_of
from wentu.library.follow import Follower
from wentu.library.place import Library, open_library
from wentu.store import Store

OLD = 1_700_000_000
"""When the files of these tests were made: what is being written is left for the next look."""
Held = dict[str, int]
"""Path -> id."""


def jpeg(number: int) -> bytes:
    """A small picture that no other number has."""
    rng = np.random.default_rng(number)
    cells = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    picture = Image.fromarray(cells).resize((48, 40), Image.Resampling.BICUBIC)
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def put(path: Path, data: bytes, when: float = OLD) -> Path:
    """A file as it lies there for long."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (when, when))
    return path


def fill(root: Path, numbers: Iterable[int]) -> None:
    """Pictures by number, in a few folders."""
    for number in numbers:
        put(root / f"{number % 7}" / f"{number:05d}.jpg", jpeg(number), OLD + number)


def opened(root: Path, place: Path, bundle: Path) -> Library:
    """The library of a folder."""
    return open_library(str(root), place=str(place), model=str(bundle))


def follow(library: Library, looks: int = 2, **given: Any) -> None:
    """Look at the folder so many times, without resting."""
    Follower(library=library, pause=lambda seconds: None, **given).run(looks)


def there(root: Path) -> Held:
    """What lies in a folder, recomputed."""
    return {
        path.relative_to(root).as_posix(): id_of(bytes_digest(path.read_bytes()))
        for path in root.rglob("*.jpg")
    }


def held(store: Store) -> tuple[Held, dict[int, npt.NDArray[np.float32]]]:
    """What the current release says: (path -> id, id -> vector); every picture in one segment."""
    current = store.current()
    assert current is not None
    release = current[1]
    store.verify(release)
    paths: Held = {}
    vectors: dict[int, npt.NDArray[np.float32]] = {}
    for each in release.segments:
        folder = store.segment(each.digest)
        ids, rows = np.load(folder / "ids.npy"), np.load(folder / "vectors.npy")
        alive = [i for i in ids.tolist() if i not in each.tombstones]
        assert not vectors.keys() & set(alive), "a picture is served by two segments"
        vectors |= {i: rows[row] for row, i in enumerate(ids.tolist()) if i in alive}
        with closing(sqlite3.connect(folder / "catalog.sqlite")) as db:
            for path, picture in db.execute("SELECT path, picture FROM paths"):
                if picture in alive:
                    assert path not in paths
                    paths[path] = picture
    assert release.pictures == len(vectors)
    assert set(paths.values()) == vectors.keys()
    return paths, vectors


def assert_right(library: Library, root: Path, bundle: Path, but: Iterable[str] = ()) -> None:
    """The release holds what lies in the folder (``but`` for some files), with its vectors."""
    paths, vectors = held(library.store)
    expected = there(root)
    for path in but:
        del expected[path]
    assert paths == expected
    by_id = {picture: root / path for path, picture in expected.items()}
    embedded = Bundle(bundle).encode_image(path.read_bytes() for path in by_id.values())
    for picture, vector in zip(by_id, embedded, strict=True):
        np.testing.assert_allclose(vectors[picture], vector, atol=1e-5)
        assert library.store.storage.exists(library.store.thumbnail_key(picture))
