"""The one decoder: what it makes upright and white, what it refuses, and that it equals cn_clip."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wentu import pictures
from wentu.pictures import PictureError

DATA = Path(os.environ.get("WENTU_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
MUST_LOAD = sorted((DATA / "broken" / "must-load").glob("*.*"))
MUST_BE_REFUSED = sorted((DATA / "broken" / "must-be-refused").glob("*.*"))
WITHOUT_DATA = [pytest.param(None, marks=pytest.mark.skip(reason=f"no broken pictures in {DATA}"))]
WHITE = (255, 255, 255)


def saved(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def scene(width: int = 120, height: int = 80, seed: int = 0) -> Image.Image:
    """A smooth picture in colours, different for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def png(width: int, height: int, depth: int, colour: int, rows: bytes, trns: bytes) -> bytes:
    """A PNG that Pillow cannot write: any bit depth, with one transparent colour."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"tRNS", trns), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def exif(orientation: int, order: str = "<", kind: int = 3) -> bytes:
    """An EXIF block that holds the orientation, second of two entries."""
    start = b"II*\0" if order == "<" else b"MM\0*"
    value = struct.pack(order + ("H2x" if kind == 3 else "I"), orientation)
    entries = struct.pack(order + "HHII", 0x0100, 4, 1, 7)
    entries += struct.pack(order + "HHI", 0x0112, kind, 1) + value
    return b"Exif\0\0" + start + struct.pack(order + "IH", 8, 2) + entries + bytes(4)


# Decoding: the real odd files


@pytest.mark.parametrize("path", MUST_LOAD or WITHOUT_DATA, ids=lambda p: p.name if p else "none")
def test_odd_pictures_load(path: Path) -> None:
    picture = pictures.decode(path.read_bytes())
    assert picture.mode == "RGB"
    assert type(picture) is Image.Image
    assert picture.info == {}
    assert picture.width > 0
    assert picture.height > 0


@pytest.mark.parametrize(
    "path", MUST_BE_REFUSED or WITHOUT_DATA, ids=lambda p: p.name if p else "none"
)
def test_broken_pictures_are_refused(path: Path) -> None:
    with pytest.raises(PictureError) as refused:
        pictures.decode(path.read_bytes())
    assert len(str(refused.value)) > 10


def test_the_real_rotated_files_are_upright() -> None:
    folder = DATA / "broken" / "must-load"
    if not folder.exists():
        pytest.skip(f"no broken pictures in {DATA}")
    plain = np.asarray(pictures.decode((folder / "hopper.jpg").read_bytes())).astype(int)
    for orientation in (2, 5, 6, 8):
        path = folder / f"hopper_orientation_{orientation}.jpg"
        turned = np.asarray(pictures.decode(path.read_bytes())).astype(int)
        assert np.abs(plain - turned).mean() < 6, path.name


# Orientation


TURNS = {  # how a camera stores an upright picture that it marks so: the inverse of turning it
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", TURNS)
def test_mistake_06_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    if kind == "AVIF" and "AVIF" not in Image.registered_extensions().values():
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
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
        (b"<!DOCTYPE html><html></html>", "not a picture"),
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


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_a_picture_error_or_a_picture(data: st.DataObject) -> None:
    """Whatever bytes change, no other exception comes out, and no warning."""
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM"]))
    options = {"exif": exif(6)} if kind in ("JPEG", "PNG", "WEBP") else {}
    damaged = bytearray(saved(scene(24, 16), kind, **options))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PictureError):
        assert pictures.decode(bytes(damaged), max_pixels=10**6).mode == "RGB"


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
    def fail(data: bytes) -> None:
        raise MemoryError

    monkeypatch.setattr(pictures, "_open", fail)
    with pytest.raises(PictureError, match="memory"):
        pictures.decode(b"x")


# Model input


@pytest.fixture(scope="module")
def reference() -> Callable[[Image.Image], Any]:
    """cn_clip's own transform for resolution 224."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the import only: not our code
        clip = pytest.importorskip("cn_clip.clip")
    transform: Callable[[Image.Image], Any] = clip.image_transform(224)
    return transform


def assert_like_reference(data: bytes, reference: Callable[[Image.Image], Any]) -> None:
    array = pictures.to_array(pictures.decode(data), 224)
    assert array.shape == (224, 224, 3)
    assert array.dtype == np.uint8
    theirs = reference(Image.open(io.BytesIO(data))).numpy()
    assert np.abs(pictures.normalize(array[None])[0] - theirs).max() <= 1e-6


@pytest.mark.parametrize("size", [(640, 427), (224, 224), (31, 500), (1, 1), (1000, 20)])
def test_equals_cn_clips_transform(
    size: tuple[int, int], reference: Callable[[Image.Image], Any]
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    assert_like_reference(saved(Image.fromarray(noise), "JPEG"), reference)


def test_equals_cn_clips_transform_on_photos(reference: Callable[[Image.Image], Any]) -> None:
    photos = sorted((DATA / "flickr8k-originals").glob("*.jpg"))[:20]
    if not photos:
        pytest.skip(f"no photos in {DATA}")
    for photo in photos:
        assert_like_reference(photo.read_bytes(), reference)


def test_normalize() -> None:
    batch = np.random.default_rng(0).integers(0, 256, (3, 5, 5, 3), dtype=np.uint8)
    out = pictures.normalize(batch)
    assert out.shape == (3, 3, 5, 5)
    assert out.dtype == np.float32
    assert out.flags.c_contiguous
    exact = (batch / 255 - pictures.MEAN) / pictures.STD
    assert np.abs(out - exact.transpose(0, 3, 1, 2)).max() < 1e-6
    assert pictures.normalize(batch[:0]).shape == (0, 3, 5, 5)


def coordinates(width: int, height: int) -> Image.Image:
    """A picture whose red says how far right a pixel is and whose green how far down, 0..255."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, x * 0], axis=2).astype(np.uint8))


@pytest.mark.parametrize("size", [(300, 300), (300, 200), (600, 60)])
def test_augment_keeps_nine_tenths_and_never_flips(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    picture = coordinates(*size)
    areas, aspects = [], []
    for _ in range(60):
        crop = pictures.augment(picture, 64, rng).astype(int)
        assert crop.shape == (64, 64, 3)
        width = (crop[:, -1, 0] - crop[:, 0, 0]).mean() / 255
        height = (crop[-1, :, 1] - crop[0, :, 1]).mean() / 255
        areas.append(width * height)
        aspects.append(width / height)
    assert min(areas) > 0.85
    assert max(areas) < 1.001
    assert np.std(areas) > 0.01
    assert 0.85 < min(aspects) < 0.98
    assert 1.02 < max(aspects) < 1.18


def test_augment_is_repeatable_and_takes_the_smallest_picture() -> None:
    first, second = (pictures.augment(scene(), 32, np.random.default_rng(9)) for _ in range(2))
    assert np.array_equal(first, second)
    assert pictures.augment(Image.new("RGB", (1, 1), "red"), 8, np.random.default_rng(0)).shape == (
        8,
        8,
        3,
    )


# Thumbnails and fingerprints


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


def test_near_duplicates_of_photos() -> None:
    """The figures in near_duplicate's docstring, on a part of those photos."""
    photos = sorted((DATA / "flickr8k-cn" / "flickr8k-images").glob("*.jpg"))[:300]
    if not photos:
        pytest.skip(f"no photos in {DATA}")
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


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, wentu.pictures as p; assert 'PIL' not in sys.modules;"
        "p.thumbnail(p.decode(b'P6 1 1 255 abc'));"
        "assert not {'torch', 'torchvision', 'cn_clip'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
