"""Damaged bytes end in a picture or in a PictureError: no other exception, no hang, no warning."""

from __future__ import annotations

import warnings

import pytest
from PIL import Image

from tests.fuzz import mutations, survives
from tests.pictures.make import heic, reads_avif, saved, scene, seeds
from wentu import pictures
from wentu.pictures import PictureError

MOST_PIXELS = 200_000
"""So that a flipped bit in a width costs no time."""


def read(data: bytes) -> None:
    assert pictures.decode(data, max_pixels=MOST_PIXELS).mode == "RGB"


def test_three_hundred_damaged_pictures_of_every_format() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")  # an error would end inside of decode, as one of ours
        for kind, data in seeds().items():
            assert 0 < survives(read, mutations(data, 300, 5)) < 300, kind
    assert [str(each.message) for each in caught] == []


@pytest.mark.exhaustive
def test_ten_thousand_damaged_pictures_of_every_format() -> None:
    for kind, data in seeds().items():
        assert 0 < survives(read, mutations(data, 10_000, 6)) < 10_000, kind


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "HEIC"])
def test_truncated_files_are_refused(kind: str) -> None:
    if kind == "AVIF" and not reads_avif():
        pytest.skip("this Pillow reads no AVIF")
    data = heic(scene()) if kind == "HEIC" else saved(scene(), kind)
    for tenths in range(10):
        with pytest.raises(PictureError):
            pictures.decode(data[: len(data) * tenths // 10])


def test_a_strip_of_pixels_that_would_cost_gigabytes_is_refused() -> None:
    with pytest.raises(PictureError, match="longer than the 1,000,000 allowed"):
        pictures.decode(saved(Image.new("1", (1_000_001, 1))))


@pytest.mark.heavy
def test_two_hundred_megapixels_load() -> None:
    """As a phone's largest mode makes them; takes about 1.5 GB."""
    photo = Image.new("L", (16_320, 12_240), 99)
    data = saved(photo, "JPEG")
    del photo
    picture = pictures.decode(data)
    assert picture.size == (16_320, 12_240)
    assert pictures.Preprocessing(resolution=32, resize="crop").to_array(picture).mean() == 99
