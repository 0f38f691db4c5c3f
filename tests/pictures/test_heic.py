"""HEIC and AVIF: what phones make. The container turns them, not EXIF."""

from __future__ import annotations

import struct
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from tests.pictures.make import TURNS, WHITE, exif, heic, reads_avif, saved, scene
from wentu import pictures
from wentu.pictures import PictureError


def distance(data: bytes, expected: Image.Image) -> float:
    decoded = np.asarray(pictures.decode(data)).astype(int)
    assert decoded.shape == np.asarray(expected).shape
    return float(np.abs(decoded - np.asarray(expected)).mean())


def both() -> list[str]:
    return ["HEIC", "AVIF"] if reads_avif() else ["HEIC"]


def made(kind: str, picture: Image.Image, block: bytes | None = None) -> bytes:
    if kind == "HEIC":
        return heic(picture, exif=block, chroma=444)
    return saved(picture, "AVIF", quality=90, **({"exif": block} if block else {}))


@pytest.mark.parametrize("kind", both())
@pytest.mark.parametrize("orientation", TURNS)
def test_turned_once_and_not_twice(orientation: int, kind: str) -> None:
    """The coders write EXIF's orientation as irot and imir; a phone leaves it in EXIF as well."""
    turn = TURNS[orientation]
    stored = scene() if turn is None else scene().transpose(turn)
    data = made(kind, stored, exif(orientation))
    assert (b"irot" in data or b"imir" in data) == (orientation > 1)
    assert distance(data, scene()) < 3


def test_exif_alone_does_not_turn_a_heic() -> None:
    """ISO/IEC 23008-12: only the container's properties are applied."""
    data = heic(scene(), exif=exif(1))
    at = data.index(exif(1)[6:])
    assert distance(data[:at] + exif(6)[6:] + data[at + len(exif(6)) - 6 :], scene()) < 3


@pytest.mark.parametrize("kind", both())
@pytest.mark.parametrize("damage", [b"", b"\xff" * 12, bytes(12), b"Exif\0\0II*\0" + b"\xff" * 4])
def test_damaged_exif_costs_no_picture_and_no_rotation(kind: str, damage: bytes) -> None:
    tags = Image.Exif()
    tags[0x010F], tags[0x0112] = "A maker", 6
    data = made(kind, scene().transpose(TURNS[6] or 0), tags.tobytes())
    assert data.count(b"A maker") == 1
    at = data.rindex(b"MM\0*", 0, data.index(b"A maker"))
    assert distance(data[:at] + damage + data[at + len(damage) :], scene()) < 3


def test_the_primary_picture_of_several() -> None:
    red, blue = (Image.new("RGB", (64, 48), name) for name in ("red", "blue"))
    assert distance(heic(red, blue), red) < 6
    assert distance(heic(red, blue, primary_index=1), blue) < 6


@pytest.mark.skipif(not reads_avif(), reason="this Pillow reads no AVIF")
def test_the_first_frame_of_an_animation() -> None:
    red, blue = (Image.new("RGB", (64, 48), name) for name in ("red", "blue"))
    assert distance(saved(red, "AVIF", save_all=True, append_images=[blue]), red) < 6


@pytest.mark.parametrize("kind", both())
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_every_mode(kind: str, mode: str) -> None:
    if kind == "AVIF" and mode == "I;16":
        return  # Pillow writes AVIF of 8 bits only
    grey = scene().convert("L")
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    else:
        picture = scene().convert(mode)
    expected = grey.convert("RGB") if mode in ("L", "LA", "I;16") else scene()
    assert distance(made(kind, picture), expected) < 3


@pytest.mark.parametrize("kind", both())
def test_transparent_red_is_white(kind: str) -> None:
    red = pictures.decode(made(kind, Image.new("RGBA", (64, 64), (255, 0, 0, 0))))
    assert red.getpixel((30, 30)) == WHITE


@pytest.mark.parametrize("brand", [b"heix", b"mif1", b"msf1", b"MiHE"])
def test_any_first_brand(brand: bytes) -> None:
    data = heic(scene())
    assert data[8:12] == b"heic"
    assert distance(data[:8] + brand + data[12:], scene()) < 6


@pytest.mark.skipif(not reads_avif(), reason="this Pillow reads no AVIF")
def test_an_avif_under_the_common_brand_is_not_taken_for_heic() -> None:
    data = saved(scene(), "AVIF", quality=90)
    assert distance(data[:8] + b"mif1" + data[12:], scene()) < 3


@pytest.mark.parametrize("kind", both())
def test_the_size_is_checked_before_pixels_are_read(kind: str) -> None:
    data = made(kind, scene())
    with pytest.raises(PictureError, match="120 x 80 pixels, more than the 9,599 allowed"):
        pictures.decode(data, max_pixels=9_599)
    assert pictures.decode(data, max_pixels=9_600).size == (120, 80)


@pytest.mark.parametrize("size", [(8, 8), (30_000, 30_000), (16_000, 16_000)])
def test_a_wrong_size_in_the_header_is_refused(size: tuple[int, int]) -> None:
    data = heic(Image.new("RGB", (640, 480), "red"))
    at = data.index(b"ispe") + 8
    with pytest.raises(PictureError):
        pictures.decode(data[:at] + struct.pack(">II", *size) + data[at + 8 :])


def test_without_the_library_the_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic(scene())
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(PictureError, match=r"pip install pillow-heif\) or convert it to JPEG"):
        pictures.decode(data)


def test_nothing_is_registered_for_the_process() -> None:
    pictures.decode(heic(scene()))
    assert "HEIF" not in Image.OPEN
    assert ".heic" not in Image.registered_extensions()


def test_threads_decode_alike() -> None:
    files = [made(kind, scene(60, 40, seed)) for seed in range(10) for kind in both()]
    alone = [pictures.decode(data).tobytes() for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: pictures.decode(data).tobytes(), files * 3))
    assert together == alone * 3
