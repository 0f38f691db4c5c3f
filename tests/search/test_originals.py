"""A picture's own file without where it was taken: the same pixels, upright, and no metadata."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wentu import pictures
from wentu.errors import InputError
from wentu.formats import bytes_digest
from wentu.search.decoders import decoded
from wentu.search.originals import Originals, media_type, without_place

LOSSLESS = ("image/jpeg", "image/png", "image/webp", "image/bmp")
ENCODED_AGAIN = ("junk_jpeg_header.jpg",)
"""What a decoder forgives and we do not take apart."""
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/">exif:GPSLatitude 31,14N</x:xmpmeta>'


def exif(orientation: int = 6) -> bytes:
    """A block with an orientation and a place."""
    block = Image.Exif()
    block[0x0112] = orientation
    block.get_ifd(0x8825).update({1: "N", 2: (31.0, 14.0, 0.0), 3: "E", 4: (121.0, 29.0, 0.0)})
    block[0x010E] = "GPSLatitude"
    return block.tobytes()


def places(data: bytes) -> bool:
    """Does anything in the file speak of a place?"""
    with Image.open(io.BytesIO(data)) as image:
        known = image.getexif()
        return bool(known.get_ifd(0x8825)) or b"GPS" in data or b"xmpmeta" in data


def drawn(kind: str, **more: object) -> bytes:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def cleaned(data: bytes) -> tuple[bytes, str]:
    """What goes out of a file, and its media type."""
    bare = without_place(data)
    if bare is not None:
        return bare, media_type(data)[0]
    question = {"language": "en", "pixels": 64_000_000, "preprocessing": None}
    return decoded(question, data)[1], "image/jpeg"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_the_place_goes_and_the_pixels_stay(kind: str, orientation: int) -> None:
    data = drawn(kind, exif=exif(orientation), xmp=XMP)
    if kind in ("JPEG", "WEBP"):
        assert places(data)
    clean, media = cleaned(data)
    assert not places(clean)
    before, after = np.asarray(pictures.decode(data)), np.asarray(pictures.decode(clean))
    assert before.shape == after.shape
    if media_type(data)[0] in LOSSLESS:
        assert np.array_equal(before, after)
        assert media == media_type(data)[0]
    else:
        assert media == "image/jpeg"


def test_what_follows_the_picture_goes_too() -> None:
    """Telephones put a video behind a JPEG, with where it was taken."""
    for kind in ("JPEG", "PNG"):
        clean, _ = cleaned(drawn(kind) + b"....ftypmp42 \xa9xyz+31.2+121.5/GPS")
        assert b"+31.2" not in clean
        assert np.array_equal(
            np.asarray(pictures.decode(clean)), np.asarray(pictures.decode(drawn(kind)))
        )


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


@pytest.mark.parametrize("name", [b"caBX", b"vpAg", b"tEXt", b"zzZz"])
def test_chunks_that_nobody_knows_do_not_go_out(name: bytes) -> None:
    """C2PA's manifests (caBX) may hold a place, and so may whatever comes after them."""
    whole = drawn("PNG")
    end = whole.index(b"IDAT") - 4
    clean = without_place(whole[:end] + chunk(name, b"GPS 31.2") + whole[end:])
    assert clean == whole
    webp = drawn("WEBP", exif=exif(6))
    body = webp[12:] + b"C2PA" + struct.pack("<I", 8) + b"GPS 31.2"
    clean = without_place(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body)
    assert clean == without_place(webp)
    assert b"GPS" not in clean


def test_what_decides_how_pixels_are_read_is_not_left_out() -> None:
    whole = drawn("PNG")
    end = whole.index(b"IDAT") - 4
    assert without_place(whole[:end] + chunk(b"CgBI", b"1234") + whole[end:]) is None


def test_progressive_and_restart_markers_and_profiles_stay() -> None:
    data = drawn("JPEG", progressive=True, icc_profile=b"profile", restart_marker_blocks=1)
    clean, _ = cleaned(data)
    with Image.open(io.BytesIO(clean)) as image:
        assert image.info["icc_profile"] == b"profile"
    assert np.array_equal(np.asarray(pictures.decode(data)), np.asarray(pictures.decode(clean)))


def test_shared_pictures_look_the_same_without_their_metadata(data: Path) -> None:
    for path in sorted((data / "broken" / "must-load").iterdir()):
        whole = path.read_bytes()
        clean, kind = cleaned(whole)
        assert not places(clean), path.name
        before = np.asarray(pictures.decode(whole)).astype(int)
        after = np.asarray(pictures.decode(clean)).astype(int)
        assert before.shape == after.shape, path.name
        again = kind != media_type(whole)[0] or path.name in ENCODED_AGAIN
        assert np.abs(before - after).mean() < (8 if again else 1e-9), path.name


def test_no_file_is_read_but_those_that_were_indexed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "secret.png"
    inside.mkdir()
    (inside / "a.png").write_bytes(b"picture")
    outside.write_bytes(b"secret")
    files = Originals(str(inside))
    assert files.read(["gone.png", "a.png"], bytes_digest(b"picture")) == b"picture"
    for path in ("../secret.png", str(outside), "x/../../secret.png", "", ".", "a\0b", "//a.png"):
        with pytest.raises(InputError, match="gone from the collection"):
            files.read([path], bytes_digest(b"secret"))
    with pytest.raises(InputError, match="was changed since"):
        files.read(["a.png"], bytes_digest(b"another"))
    for place in ("", str(tmp_path / "nothing")):
        with pytest.raises(InputError, match="start with --collection DIR"):
            Originals(place).read(["a.png"], bytes_digest(b"picture"))
