"""A picture's own file, without what it tells of where it was taken.

JPEG, PNG and WebP keep their pixels bit by bit: what stands beside the pixels is left out, but for
colours (ICC) and the orientation, which is written anew. In the other formats places hide in ways
of their own, so those go out as JPEG. BMP holds no metadata.

Where things stand: JPEG's segments in ITU-T T.81, B.1; EXIF in CIPA DC-008, 4.5; PNG's chunks in
its specification, 5.3 and 11.3; WebP's in "WebP Container Specification", Extended File Format.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from wentu import pictures
from wentu.collection import open_collection
from wentu.errors import WentuError
from wentu.formats import bytes_digest
from wentu.search.query import NotHereError

TYPES = (
    (b"\xff\xd8\xff", "image/jpeg", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "image/png", "png"),
    (b"RIFF", "image/webp", "webp"),
    (b"GIF8", "image/gif", "gif"),
    (b"BM", "image/bmp", "bmp"),
    (b"II*\0", "image/tiff", "tiff"),
    (b"MM\0*", "image/tiff", "tiff"),
    (b"\0\0\0\x0cjP  ", "image/jp2", "jp2"),
)
_PNG_KEPT = frozenset(
    b"IHDR PLTE IDAT IEND tRNS acTL fcTL fdAT pHYs"
    b" cHRM gAMA iCCP sBIT sRGB cICP mDCV cLLI bKGD".split()
)
_WEBP_KEPT = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"ICCP")
_JPEG_KEPT = (0xE0, 0xE2, 0xEE)  # JFIF; ICC, if it is one; Adobe's, which says how colours are kept
_EXIF = b"Exif\0\0"


class Originals:
    """The files of a collection that a release knows; nothing else that lies there or elsewhere.

    A file is handed out only if its bytes are those that were indexed, so neither an edited one nor
    whatever a damaged catalog points at leaves this way.
    """

    def __init__(self, place: str) -> None:
        self.place = place

    def there(self) -> bool:
        """Can the collection be read from here?"""
        try:
            return bool(self.place) and bool(open_collection(self.place))
        except WentuError:
            return False

    def read(self, paths: Sequence[str], digest: bytes) -> bytes:
        """The bytes of a picture from one of its paths; NotHereError where none has them."""
        if not self.there():
            raise NotHereError(
                "the collection cannot be read from here; start with --collection DIR.",
                "在此处无法读取图文集；请以 --collection 目录 启动。",
            )
        collection = open_collection(self.place)
        for path in paths:
            if "\0" in path or not {"", ".", ".."}.isdisjoint(path.split("/")):
                continue
            try:
                data = collection.read(path)
            except OSError:
                continue
            if bytes_digest(data) == digest:
                return data
        raise NotHereError(
            "the picture's file is gone from the collection, or was changed since it was indexed.",
            "该图片的文件已不在图文集中，或在建立索引后被修改。",
        )


def media_type(data: bytes) -> tuple[str, str]:
    """(media type, usual extension) of a file, by its first bytes."""
    if data[4:8] == b"ftyp":
        return ("image/avif", "avif") if b"avi" in data[8:32] else ("image/heic", "heic")
    found = (each for each in TYPES if data.startswith(each[0]))
    _, kind, extension = next(found, (b"", "application/octet-stream", "bin"))
    return kind, extension


def without_place(data: bytes) -> bytes | None:
    """A file without EXIF, XMP, IPTC, comments and trailers; None where only decoding it helps."""
    kind, _ = media_type(data)
    strip = {"image/jpeg": _jpeg, "image/png": _png, "image/webp": _webp}.get(kind)
    if strip:
        try:
            return strip(data)
        except (ValueError, IndexError, struct.error):  # odd, but a decoder may still read it
            return None
    return data if kind == "image/bmp" else None


def _orientation_block(orientation: int) -> bytes:
    """The TIFF structure of an EXIF block that says nothing but the orientation."""
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)


def _jpeg(data: bytes) -> bytes:
    """All segments that make the picture, up to its end; a trailer may be a video with a place."""
    kept, at, orientation = [data[:2]], 2, 1
    while True:
        while data[at] == 0xFF and data[at + 1] == 0xFF:  # fill bytes
            at += 1
        if data[at] != 0xFF:
            raise ValueError("no marker")
        marker = data[at + 1]
        if marker == 0xD9:
            break
        end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        body = data[at + 4 : end]
        if marker == 0xE1 and body.startswith(_EXIF):
            orientation = pictures.exif_orientation(body)
        application = 0xE0 <= marker <= 0xEF or marker == 0xFE  # FE: comment
        icc = marker != 0xE2 or body.startswith(b"ICC_PROFILE\0")
        if not application or (marker in _JPEG_KEPT and icc):
            kept.append(data[at:end])
        if marker == 0xDA:  # what follows is coded pixels: markers in it are FF00 or restarts
            start, end = end, _end_of_scan(data, end)
            kept.append(data[start:end])
        at = end
    if orientation != 1:
        block = _EXIF + _orientation_block(orientation)
        segment = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
        jfif = kept[1][:2] == b"\xff\xe0" if len(kept) > 1 else False
        kept.insert(2 if jfif else 1, segment)
    return b"".join(kept) + b"\xff\xd9"


def _end_of_scan(data: bytes, at: int) -> int:
    """Where the next marker stands that is none of the coded pixels'."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            raise ValueError("no end")
        if data[at + 1] == 0 or 0xD0 <= data[at + 1] <= 0xD7:
            at += 2
        elif data[at + 1] == 0xFF:
            at += 1
        else:
            return at


def _png(data: bytes) -> bytes:
    kept, at, orientation, first = [data[:8]], 8, 1, 0
    name = b""
    while name != b"IEND":
        (length,) = struct.unpack_from(">I", data, at)
        name, end = data[at + 4 : at + 8], at + 12 + length
        if end > len(data):
            raise ValueError("cut off")
        if name == b"eXIf":  # it may stand behind the pixels, too
            orientation = pictures.exif_orientation(data[at + 8 : end - 4])
        if name == b"IDAT" and not first:
            first = len(kept)
        if name in _PNG_KEPT:
            kept.append(data[at:end])
        elif name[:1].isupper():  # what cannot be left out
            raise ValueError("a chunk that decides how pixels are read")
        at = end
    if orientation != 1:
        kept.insert(first, _png_chunk(b"eXIf", _orientation_block(orientation)))
    return b"".join(kept)


def _png_chunk(name: bytes, body: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(name + body))
    return struct.pack(">I", len(body)) + name + body + crc


def _webp(data: bytes) -> bytes:
    if data[8:12] != b"WEBP":
        raise ValueError("no WebP")
    end = min(len(data), 8 + struct.unpack_from("<I", data, 4)[0])
    chunks: list[tuple[bytes, bytes]] = []
    at, orientation = 12, 1
    while at + 8 <= end:
        name, (length,) = data[at : at + 4], struct.unpack_from("<I", data, at + 4)
        body = data[at + 8 : at + 8 + length]
        if name == b"EXIF":
            orientation = pictures.exif_orientation(body)
        elif name in _WEBP_KEPT:
            chunks.append((name, body))
        at += 8 + length + length % 2
    if orientation != 1:
        chunks.append((b"EXIF", _orientation_block(orientation)))
    for number, (name, body) in enumerate(chunks):
        if name == b"VP8X":  # flags: EXIF is 8, XMP is 4
            flags = body[0] & ~0x0C | (8 if orientation != 1 else 0)
            chunks[number] = name, bytes([flags]) + body[1:]
    packed = b"".join(
        name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
        for name, body in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(packed)) + b"WEBP" + packed
