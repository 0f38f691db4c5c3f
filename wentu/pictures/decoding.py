"""Bytes -> the first frame, upright, on white, RGB.

Unusual here: damaged EXIF never costs a picture. The one field that we need is read by our own 20
lines (``exif_orientation``), because Pillow's reader warns, and silencing a warning
(``warnings.catch_warnings``) is not safe in a thread pool. Colour profiles are not applied: a
Display P3 photo comes out slightly paler, here as in everything Chinese-CLIP was trained on.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from wentu.pictures import opening
from wentu.pictures.opening import PictureError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 300_000_000
"""Width times height above which a picture is refused: 200-megapixel phone photos pass. Decoding
the largest takes about 2.4 GB for a moment (4 bytes a pixel in Pillow, two copies)."""

MAX_SIDE = 1_000_000
"""Width or height above which a picture is refused: resizing costs Pillow 32 bytes for each pixel
of a side, so a strip of one row and 300 million columns would take 9.6 GB."""


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image:
    """The picture in a file's bytes: first frame, upright, on white, mode RGB, fully loaded.

    Of a HEIC file with several pictures the primary one. The result holds neither the file nor
    its metadata. ``max_pixels`` bounds width times height and is checked before pixels are read.

    Raises PictureError for everything that is wrong with the bytes, whatever Pillow calls it.
    """
    from PIL import Image

    try:
        picture, orientation = _read(data, max_pixels)
        return _plain(_upright(to_rgb(picture), orientation))
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"more pixels than Pillow reads in this format ({error})",
            f"像素数超过 Pillow 对这种格式的上限（{error}）",
        ) from error
    except MemoryError as error:
        raise PictureError("too large for the memory left", "图片太大，内存不足") from error
    except Exception as error:
        # Pillow's plugins raise OSError, ValueError, SyntaxError, struct.error, zlib.error,
        # IndexError, ... on damaged files; none of them is a reason to stop a whole collection.
        detail = " ".join(str(error).split()) or type(error).__name__
        raise PictureError(
            f"damaged or incomplete: {detail}", f"文件损坏或不完整：{detail}"
        ) from error


def _read(data: bytes, max_pixels: int) -> tuple[Image, int]:
    """The loaded picture in whatever mode, and the EXIF orientation that is still to be applied."""
    from PIL import Image, ImageFile

    opened = opening.open_picture(data)
    _check_size(opened.size, max_pixels)
    if isinstance(opened, ImageFile.ImageFile):
        opened.load()
        return opened, exif_orientation(opened.info.get("exif"))
    pixels = opened.data  # libheif decodes here, turns, and may correct the size and the stride
    _check_size(opened.size, max_pixels)
    args = (opened.mode, opened.stride)
    return Image.frombytes(opened.mode, opened.size, pixels, "raw", *args), 1


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise PictureError("a picture without pixels", "图片没有像素")
    if width * height > max_pixels:
        raise PictureError(
            f"{width} x {height} pixels, more than the {max_pixels:,} allowed",
            f"{width} x {height} 像素，超过允许的 {max_pixels:,} 像素",
        )
    if max(size) > MAX_SIDE:
        raise PictureError(
            f"{width} x {height} pixels, longer than the {MAX_SIDE:,} allowed",
            f"{width} x {height} 像素，边长超过允许的 {MAX_SIDE:,} 像素",
        )


def exif_orientation(exif: object) -> int:
    """The orientation tag (0x0112) of an EXIF block, 1..8; 1 where it is missing or damaged."""
    for tag, order, kind, _, at, body in _entries(exif):
        if tag == 0x0112:
            width = {1: "B", 3: "H", 4: "I"}.get(kind, "H")
            (value,) = struct.unpack_from(order + width, body, at)
            return int(value) if 1 <= value <= 8 else 1
    return 1


def exif_taken(exif: object) -> str | None:
    """When a picture was taken (0x9003, else 0x9004), as 2024-05-31T12:00:00; None where it is
    missing, damaged, or no date. A camera tells no zone."""
    found: dict[int, str] = {}
    for tag, order, _, _, at, body in _entries(exif):
        if tag != 0x8769:  # what points at the Exif directory
            continue
        (start,) = struct.unpack_from(order + "I", body, at)
        for inner, _, kind, count, place, _ in _entries(exif, start):
            if inner in (0x9003, 0x9004) and kind == 2 and count >= 19:
                (start,) = struct.unpack_from(order + "I", body, place)
                found[inner] = body[start : start + 19].decode("ascii", "replace")
    for tag in sorted(found):
        try:
            return datetime.strptime(found[tag], "%Y:%m:%d %H:%M:%S").isoformat()
        except ValueError:  # cameras whose clock was never set write zeros, or spaces
            continue
    return None


_Entry = tuple[int, str, int, int, int, bytes]


def _entries(exif: object, start: int | None = None) -> Iterator[_Entry]:
    """(tag, byte order, kind, count, where its value stands, block) of a directory: the first one,
    or that at ``start``. EXIF 2.32, sections 4.6.2 and 4.6.4: a TIFF header, then 12-byte entries.
    """
    if not isinstance(exif, bytes):
        return
    body = exif.removeprefix(b"Exif\x00\x00")
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(body[:4])
    if order is None:
        return
    try:
        if start is None:
            (start,) = struct.unpack_from(order + "I", body, 4)
        (number,) = struct.unpack_from(order + "H", body, start)
        for entry in range(start + 2, start + 2 + 12 * number, 12):
            tag, kind, count = struct.unpack_from(order + "HHI", body, entry)
            struct.unpack_from(order + "I", body, entry + 8)  # all of it is there
            yield tag, order, kind, count, entry + 8, body
    except struct.error:  # points outside of the block
        return


def taken(data: bytes) -> str | None:
    """When the picture in a file's bytes was taken, see ``exif_taken``; reads the header only."""
    try:
        return exif_taken(opening.open_picture(data).info.get("exif"))
    except Exception:  # as in decode: whatever is wrong with the bytes, there is no date
        return None


def _upright(picture: Image, orientation: int) -> Image:
    """Turn and mirror as EXIF 2.32, section 4.6.4, defines orientations 1 to 8."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return picture.transpose(turns[orientation]) if orientation in turns else picture


def to_rgb(picture: Image) -> Image:
    """Any mode -> RGB: palettes looked up, transparency put on white, deep grey narrowed."""
    if picture.mode.startswith(("I", "F")):
        return _narrow_grey(picture)
    if not picture.has_transparency_data:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    return _on_white(picture.convert("RGBA"))


def _on_white(picture: Image) -> Image:
    """RGBA -> RGB over white: transparent red is white, as every viewer shows it."""
    from PIL import Image

    alpha = picture.getchannel("A")
    colours = picture.convert("RGB")
    if alpha.getextrema() == (255, 255):
        return colours
    white = Image.new("RGB", picture.size, "white")
    white.paste(colours, mask=alpha)
    return white


def _narrow_grey(picture: Image) -> Image:
    """Grey of 16 or 32 bits, or of floats -> RGB. Pillow's own conversion clips at 255.

    16 bits are divided by 257 and rounded. 32-bit and float pictures do not say what white is:
    it is the first of (1, 255 for floats; 65,535) that no value exceeds, else the largest value.
    """
    from PIL import Image

    values = np.nan_to_num(np.asarray(picture).astype(np.float32), posinf=0.0, neginf=0.0)
    top = float(values.max())
    likely = (1.0, 255.0, 65535.0) if picture.mode == "F" else (65535.0,)
    white = next((value for value in likely if top <= value), top)
    shades = np.rint(np.clip(values * np.float32(255 / white), 0, 255)).astype(np.uint8)
    key = picture.info.get("transparency")
    if isinstance(key, int):
        shades[np.asarray(picture) == key] = 255
    return Image.fromarray(shades).convert("RGB")


def _plain(picture: Image) -> Image:
    """A picture that holds no file and no metadata."""
    from PIL import ImageFile

    result = picture.copy() if isinstance(picture, ImageFile.ImageFile) else picture
    result.info = {}
    return result
