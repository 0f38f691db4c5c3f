"""Small pictures in every format, for the tests beside."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

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


def heic(*frames: Image.Image, exif: bytes | None = None, **options: Any) -> bytes:
    """A HEIC file of these pictures, the first one primary; the test is skipped without a coder."""
    library = pytest.importorskip("pillow_heif")
    file = library.HeifFile()
    for frame in frames:
        file.add_from_pillow(frame)
    buffer = io.BytesIO()
    file.save(buffer, quality=90, exif=exif, **options)
    return buffer.getvalue()


def seeds() -> dict[str, bytes]:
    """A small valid file of every format that is read."""
    one, two = scene(48, 32), scene(48, 32, 1)
    turned = exif(6)
    several: dict[str, Any] = {"save_all": True, "append_images": [two]}
    made = {kind: saved(one, kind) for kind in ("GIF", "BMP", "PPM", "JPEG2000")}
    made |= {kind: saved(one, kind, exif=turned) for kind in ("JPEG", "PNG", "WEBP")}
    made |= {f"{kind}s": saved(one, kind, **several) for kind in ("GIF", "PNG", "WEBP", "MPO")}
    made |= {f"TIFF {how}": saved(one, "TIFF", compression=how) for how in ("raw", "tiff_lzw")}
    if reads_avif():
        made |= {"AVIF": saved(one, "AVIF", exif=turned), "AVIFs": saved(one, "AVIF", **several)}
    made |= {"HEIC": heic(one, two, exif=turned), "HEIC alpha": heic(one.convert("RGBA"))}
    return made


def reads_avif() -> bool:
    """Whether this Pillow was built with AVIF."""
    return "AVIF" in Image.registered_extensions().values()
