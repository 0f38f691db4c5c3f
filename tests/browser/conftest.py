"""A release worth looking at, a service of it, and a browser."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.browser.chromium import chromium, executable
from tests.conftest import Built, Draw, Row, every_stage, write_captions
from tests.search.serving import served
from wentu.store import Store

if TYPE_CHECKING:
    from playwright.sync_api import Browser

COUNT = 150
"""Drawings: more than two pages of hits."""
SHAPES = ((128, 128), (160, 96), (96, 144), (128, 80))
"""Pixels, by turns: rows of equal squares would hide mistakes."""


@pytest.fixture(scope="session")
def gallery(draw: Draw, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A release of 150 drawings of several shapes in two folders, ten of them without a caption,
    and three near-copies of one. Its model has learned next to nothing, which is faster; so the
    current release says nothing of what a score means: else it would find nothing, rightly."""
    from PIL import Image

    root, collection = (tmp_path_factory.mktemp(name) for name in ("gallery", "drawings"))
    rows, copies = draw(collection, range(COUNT)), list[Row]()
    for number, row in enumerate(rows):
        before = collection / row["image"]
        row["image"] = f"{('夏天', 'winter/day')[number % 2]}/{before.name}"
        after = collection / row["image"]
        after.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(before) as picture:
            picture.resize(SHAPES[number % len(SHAPES)]).save(after)
            if number == 0:
                for quality in (90, 92, 95):
                    name = f"夏天/copy-{quality}.jpg"
                    picture.convert("RGB").save(collection / name, quality=quality)
                    copies.append({"image": name, "caption": row["caption"]})
        before.unlink()
    (collection / "pictures").rmdir()
    first = [rows.pop(0), *copies]
    random.Random(0).shuffle(rows)
    parts = {"train": rows[:16], "valid": rows[16:24], "test": first + rows[24:139]}
    for split, part in parts.items():
        write_captions(collection / f"cn_{split}.json", part)
    built = every_stage(root, collection, str(collection))
    store = Store(built.store)
    current = store.current()
    assert current is not None
    pointer, release = current
    files = {key: value for key, value in release.files.items() if "calibration" not in key}
    plain = store.write_release(replace(release, calibration={}, files=files))
    store.publish(plain, after=pointer.number, reason="refresh")
    return built


@pytest.fixture
def calibrated(gallery: Built, tmp_path: Path) -> str:
    """The store with the release before, which knows what a score means."""
    place = tmp_path / "calibrated"
    shutil.copytree(gallery.store, place, ignore=shutil.ignore_patterns("work"))
    max((place / "pointer").iterdir()).unlink()
    return str(place)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for each file of tests: playwright keeps an event loop running in this thread."""
    if executable() is None:
        pytest.skip("needs a Chromium: install one, e.g. apt-get install chromium")
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def service(gallery: Built) -> Iterator[httpx.Client]:
    """A service of ``gallery``, which hands out originals, too."""
    with served(gallery.store, collection=str(gallery.collection)) as client:
        yield client


@pytest.fixture
def base(service: httpx.Client) -> str:
    """Its address, without a slash at the end."""
    return str(service.base_url).rstrip("/")


@pytest.fixture
def some_picture(gallery: Built) -> Path:
    """A file of the collection."""
    return gallery.collection / "夏天" / "0000.png"
