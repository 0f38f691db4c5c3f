"""Thumbnails that tell nothing, and fingerprints that copies share."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pictures.make import saved, scene
from wentu import pictures


def test_thumbnail_has_no_metadata() -> None:
    tags = Image.Exif()
    tags[0x010F] = "A maker"
    tags.get_ifd(0x8825)[1] = "N"
    options = {"exif": tags, "comment": b"my secret", "icc_profile": b"profile" * 20}
    data = saved(scene(600, 400), "JPEG", **options)
    for picture in (pictures.decode(data), Image.open(io.BytesIO(data))):
        small = pictures.thumbnail(picture)
        opened = Image.open(io.BytesIO(small))
        assert opened.format == "JPEG"
        assert opened.size == (256, 171)
        assert not opened.getexif()
        assert set(opened.info) <= {
            "jfif",
            "jfif_version",
            "jfif_unit",
            "jfif_density",
        }
        assert not any(word in small for word in (b"Exif", b"secret", b"maker", b"profile"))


@pytest.mark.parametrize(
    ("size", "expected"),
    [((100, 50), (100, 50)), ((50, 400), (16, 128)), ((9000, 2), (128, 1)), ((1, 1), (1, 1))],
)
def test_thumbnail_sizes(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert Image.open(io.BytesIO(pictures.thumbnail(scene(*size), 128))).size == expected


def test_fingerprint_of_known_pictures() -> None:
    falling = Image.fromarray(np.tile(np.linspace(255, 0, 90, dtype=np.uint8), (80, 1)))
    assert pictures.fingerprint(falling)[0] == 2**64 - 1
    assert pictures.fingerprint(falling.transpose(Image.Transpose.FLIP_LEFT_RIGHT))[0] == 0
    assert pictures.fingerprint(Image.new("RGB", (50, 50), (1, 2, 3))) == (0, bytes([1, 2, 3] * 64))
    half = Image.new("L", (90, 80), 0)
    half.paste(255, (0, 0, 45, 10))  # bright top left: falls once in the first row
    assert pictures.fingerprint(half)[0] > 0
    assert pictures.fingerprint(half)[0] >> 56 != 0


def test_near_duplicates() -> None:
    originals = [scene(400, 300, seed) for seed in range(12)]
    prints = [pictures.fingerprint(picture) for picture in originals]
    for picture, print_ in zip(originals, prints, strict=True):
        copy = picture.resize((200, 150), Image.Resampling.BICUBIC)
        again = pictures.decode(saved(copy, "JPEG", quality=60))
        assert pictures.near_duplicate(print_, pictures.fingerprint(again))
    pairs = [(a, b) for i, a in enumerate(prints) for b in prints[:i]]
    assert not any(pictures.near_duplicate(a, b) for a, b in pairs)
    red, blue = (pictures.fingerprint(Image.new("RGB", (9, 9), name)) for name in ("red", "blue"))
    assert red[0] == blue[0]
    assert not pictures.near_duplicate(red, blue)


def test_near_duplicates_of_photos(data: Path) -> None:
    """The figures in near_duplicate's docstring, on a part of those photos."""
    photos = sorted((data / "flickr8k-cn" / "flickr8k-images").glob("*.jpg"))[:300]
    assert len(photos) == 300
    caught, prints = 0, []
    for photo in photos:
        picture = pictures.decode(photo.read_bytes())
        prints.append(pictures.fingerprint(picture))
        half = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BICUBIC)
        copy = pictures.decode(saved(half, "JPEG", quality=60))
        caught += pictures.near_duplicate(prints[-1], pictures.fingerprint(copy))
    assert caught / len(photos) > 0.98
    wrong = [1 for i, a in enumerate(prints) for b in prints[:i] if pictures.near_duplicate(a, b)]
    assert not wrong
