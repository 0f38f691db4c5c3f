"""The one decoder: what it makes upright and white, and what it refuses."""

from __future__ import annotations

import pickle
import struct
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.pictures.make import TURNS, WHITE, exif, png, reads_avif, saved, scene
from wentu import pictures
from wentu.pictures import PictureError, decoding

# Real odd files


def test_odd_pictures_load(data: Path) -> None:
    paths = sorted((data / "broken" / "must-load").iterdir())
    assert len(paths) == 19
    for path in paths:
        picture = pictures.decode(path.read_bytes())
        assert picture.mode == "RGB", path.name
        assert type(picture) is Image.Image, path.name
        assert picture.info == {}, path.name
        assert min(picture.size) > 0, path.name


def test_broken_pictures_are_refused(data: Path) -> None:
    paths = sorted((data / "broken" / "must-be-refused").iterdir())
    assert len(paths) == 10
    for path in paths:
        with pytest.raises(PictureError) as refused:
            pictures.decode(path.read_bytes())
        assert len(str(refused.value)) > 10, path.name


def test_a_folder_of_photos_loads_whatever_the_extensions(data: Path) -> None:
    paths = [path for path in (data / "photo-folder").rglob("*") if path.is_file()]
    assert len(paths) == 50
    for path in paths:
        assert pictures.decode(path.read_bytes()).mode == "RGB", path.name


def test_the_real_rotated_files_are_upright(data: Path) -> None:
    folder = data / "broken" / "must-load"
    plain = np.asarray(pictures.decode((folder / "hopper.jpg").read_bytes())).astype(int)
    for orientation in (2, 5, 6, 8):
        path = folder / f"hopper_orientation_{orientation}.jpg"
        turned = np.asarray(pictures.decode(path.read_bytes())).astype(int)
        assert np.abs(plain - turned).mean() < 6, path.name


# Orientation


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", TURNS)
def test_mistake_06_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    if kind == "AVIF" and not reads_avif():
        pytest.skip("this Pillow reads no AVIF")
    turn = TURNS[orientation]
    stored = scene() if turn is None else scene().transpose(turn)
    if kind == "TIFF":
        tags = Image.Exif()
        tags[0x0112] = orientation
        data = saved(stored, kind, exif=tags, compression="tiff_deflate")
    else:
        options: dict[str, Any] = {"quality": 100}
        if kind == "WEBP":
            options = {"lossless": True}
        data = saved(stored, kind, exif=exif(orientation)[6:], **options)
    upright = np.asarray(pictures.decode(data)).astype(int)
    assert upright.shape == (80, 120, 3)
    assert np.abs(upright - np.asarray(scene())).mean() < (3 if kind == "AVIF" else 0.001)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [3, 4])
def test_orientation_in_either_byte_order(order: str, kind: int) -> None:
    data = saved(scene(), "JPEG", exif=exif(6, order, kind))
    assert pictures.decode(data).size == (80, 120)


@pytest.mark.parametrize(
    "block",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(30),
        b"Exif\0\0XX*\0\x08\0\0\0",
        exif(6)[:-10],
        exif(0),
        exif(9),
        exif(65535),
        bytes(40),
    ],
)
def test_damaged_exif_is_ignored(block: bytes) -> None:
    assert pictures.decode(saved(scene(), "JPEG", exif=block)).size == (120, 80)


# Transparency and palettes


def test_mistake_06_transparent_red_is_white() -> None:
    red = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        assert pictures.decode(saved(red, kind, **options)).getpixel((3, 3)) == WHITE


def test_half_transparent_is_half_white() -> None:
    red = pictures.decode(saved(Image.new("RGBA", (8, 8), (255, 0, 0, 128))))
    assert red.getpixel((0, 0)) == (255, 127, 127)
    grey = pictures.decode(saved(Image.new("LA", (8, 8), (0, 64))))
    assert grey.getpixel((0, 0)) == (191, 191, 191)


def test_transparent_palette_entries() -> None:
    palette = Image.new("P", (4, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    palette.putdata([0, 1, 2, 3])
    several = pictures.decode(saved(palette, transparency=bytes([0, 255, 128, 255])))
    assert [several.getpixel((x, 0)) for x in range(4)] == [
        WHITE,
        (0, 255, 0),
        (127, 127, 255),
        (9, 9, 9),
    ]
    for kind in ("PNG", "GIF"):
        one = pictures.decode(saved(palette, kind, transparency=1))
        assert [one.getpixel((x, 0)) for x in range(2)] == [(255, 0, 0), WHITE]


@pytest.mark.parametrize(
    ("depth", "colour", "rows", "trns", "expected"),
    [
        (1, 0, b"\0\x40", b"\0\1", [(0,) * 3, WHITE]),
        (2, 0, b"\0\x60", b"\0\2", [(85,) * 3, WHITE]),
        (4, 0, b"\0\x3a", b"\0\3", [WHITE, (170,) * 3]),
        (8, 0, b"\0\x03\x04", b"\0\3", [WHITE, (4,) * 3]),
        (16, 0, b"\0\x12\x34\x80\x00", b"\x12\x34", [WHITE, (128,) * 3]),
        (8, 2, b"\0\1\2\3\1\2\4", b"\0\1\0\2\0\3", [WHITE, (1, 2, 4)]),
        (16, 2, b"\0\1\0\2\0\3\0\1\0\2\0\4\0", b"\1\0\2\0\3\0", [WHITE, (1, 2, 4)]),
    ],
)
def test_one_transparent_colour_of_any_depth(
    depth: int, colour: int, rows: bytes, trns: bytes, expected: list[tuple[int, int, int]]
) -> None:
    picture = pictures.decode(png(2, 1, depth, colour, rows, trns))
    assert [picture.getpixel((x, 0)) for x in range(2)] == expected


def test_mistake_06_palette_converted_before_resize() -> None:
    stripes = Image.new("P", (64, 64))
    stripes.putpalette([0, 0, 0, 255, 255, 255])
    stripes.putdata([x % 2 for _ in range(64) for x in range(64)])
    array = pictures.to_array(pictures.decode(saved(stripes)), 16)
    assert np.abs(array.astype(int) - 128).max() < 40  # nearest-neighbour gives 0 or 255
    assert np.array_equal(pictures.to_array(stripes, 16), array)


# Other modes and formats


def test_sixteen_bit_grey_keeps_its_shades() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(values / 257).astype(np.uint8)
    for kind in ("PNG", "TIFF", "PPM"):
        grey = np.asarray(pictures.decode(saved(Image.fromarray(values), kind)))
        assert np.array_equal(grey[..., 0], expected), kind
        assert np.array_equal(grey[..., 0], grey[..., 2]), kind


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 257, 65535, -5]], dtype=np.int32), [0, 1, 255, 0]),
        (np.array([[0, 2**20, 2**21, 0]], dtype=np.int32), [0, 128, 255, 0]),
        (np.array([[0, 0.5, 1, np.nan]], dtype=np.float32), [0, 128, 255, 0]),
        (np.array([[0, 100, 255, -np.inf]], dtype=np.float32), [0, 100, 255, 0]),
        (np.array([[0, 257, 2570, np.inf]], dtype=np.float32), [0, 1, 10, 0]),
        (np.zeros((1, 4), dtype=np.float32), [0, 0, 0, 0]),
    ],
)
def test_deep_grey(values: npt.NDArray[Any], expected: list[int]) -> None:
    picture = pictures.decode(saved(Image.fromarray(values), "TIFF"))
    assert np.asarray(picture)[0, :, 1].tolist() == expected


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    picture = pictures.decode(saved(scene().convert(mode), kind))
    assert picture.mode == "RGB"
    assert picture.size == (120, 80)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_every_format(kind: str) -> None:
    picture = np.asarray(pictures.decode(saved(scene(), kind))).astype(int)
    assert np.abs(picture - np.asarray(scene())).mean() < 12


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_first_frame_of_several(kind: str) -> None:
    red, blue = (Image.new("RGB", (16, 16), name) for name in ("red", "blue"))
    data = saved(red, kind, save_all=True, append_images=[blue])
    r, _, b = np.asarray(pictures.decode(data)).mean((0, 1))
    assert r > 240
    assert b < 15


# Refusals


def test_strangers_are_named() -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    for data, words in (
        (pointer, "Git LFS pointer, not the picture: run git lfs pull"),
        (b"", "empty"),
        (bytes(5000), "nothing but zeros"),
        (b"<!DOCTYPE html><html></html>", "web page, not a picture"),
        (b"\xef\xbb\xbf\n <HTML lang=zh>", "web page, not a picture"),
        (b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg width='1'>", "SVG drawing"),
        (b"<?xml version='1.0'?><plist>", "not a picture in a format"),
        (b"8BPS\0\1", "Photoshop"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "raw file"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "a video"),
        (b"RIFF\x08\0\0\0AVI LIST", "a video"),
        (b"%PDF-1.7", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "not a picture"),
    ):
        with pytest.raises(PictureError, match=words):
            pictures.decode(data)


def test_reasons_are_in_chinese_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WENTU_LANG", "zh")
    with pytest.raises(PictureError, match="空"):
        pictures.decode(b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_truncated_files_are_refused(kind: str) -> None:
    data = saved(scene(), kind)
    for tenths in range(10):
        with pytest.raises(PictureError):
            pictures.decode(data[: len(data) * tenths // 10])


def test_size_is_checked_before_pixels_are_read() -> None:
    header = saved(Image.new("1", (2000, 1000)))[:60]  # no pixel of it is there
    with pytest.raises(PictureError, match="2000 x 1000 pixels, more than the 1,999,999 allowed"):
        pictures.decode(header, max_pixels=1_999_999)
    assert pictures.decode(saved(Image.new("1", (20, 10))), max_pixels=200).size == (20, 10)


def oversized_gif() -> bytes:
    """A GIF whose frame is larger than the canvas it states."""
    data = bytearray(saved(Image.new("L", (8, 8), 7), "GIF"))
    data[6:10] = struct.pack("<HH", 1, 1)
    return bytes(data)


@pytest.mark.parametrize(
    "make",
    [
        lambda: saved(Image.new("RGB", (8, 8)), "JPEG"),
        lambda: saved(Image.new("RGB", (8, 8)), "PNG"),
        lambda: saved(Image.new("RGB", (8, 8)), "TIFF"),
        lambda: saved(Image.new("RGB", (8, 8)), "TIFF", compression="tiff_lzw"),
        oversized_gif,
    ],
)
def test_pillows_own_limit_gives_no_warning(
    make: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # it warns above 40, raises above 80
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert pictures.decode(data).size == (8, 8)
    assert not caught


def test_pillows_global_limit_does_not_bind_jpeg_and_png(monkeypatch: pytest.MonkeyPatch) -> None:
    large = [saved(scene(), kind) for kind in ("JPEG", "PNG")]
    tiff = saved(scene(), "TIFF")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    assert [pictures.decode(data).size for data in large] == [(120, 80)] * 2
    with pytest.raises(PictureError, match="more pixels than Pillow reads"):
        pictures.decode(tiff)
    assert Image.MAX_IMAGE_PIXELS == 40


def test_out_of_memory_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(decoding, "_read", fail)
    with pytest.raises(PictureError, match="memory"):
        pictures.decode(b"x")


# What every caller relies on


def test_threads_decode_alike() -> None:
    files = [saved(scene(60, 40, seed), kind) for seed in range(20) for kind in ("JPEG", "GIF")]
    alone = [pictures.decode(data).tobytes() for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: pictures.decode(data).tobytes(), files))
    assert alone == together


def test_a_decoded_picture_can_be_sent_to_another_process() -> None:
    picture = pictures.decode(saved(scene(), "JPEG", exif=exif(6)))
    assert pickle.loads(pickle.dumps(picture)).tobytes() == picture.tobytes()
