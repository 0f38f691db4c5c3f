"""Which format a file's bytes are in, whatever it is called, and its header; no pixel is read.

Unusual here, and its price:

- Formats are opened through Pillow's plugins, not ``PIL.Image.open``: that one refuses more than
  179 megapixels (phones make 200) unless a global is changed for the whole process. Ours is
  checked before any pixel is read. TIFF, WebP and GIF keep Pillow's 179: their plugins check.
- Only common formats are tried (``FORMATS``). Pillow knows 40 more, one of which starts
  Ghostscript.
- AVIF and HEIC are told apart by all the brands of the file, not the first alone: "mif1", which
  both begin with, says nothing.
- EXIF is hidden from Pillow's AVIF plugin, which parses it and fails on damage. The orientation of
  these two formats is stated by the container (``irot``, ``imir``; ISO/IEC 23008-12, 6.5.10) and
  its EXIF is for information only, so nothing is lost.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import re
import warnings
from collections.abc import Callable
from typing import IO, TYPE_CHECKING

from wentu.errors import InputError

if TYPE_CHECKING:
    from PIL import ImageFile
    from pillow_heif import HeifImage

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""What Pillow reads for us; HEIC comes on top where pillow_heif is installed."""

_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_EITHER = {b"mif1", b"msf1", b"mif2", b"miaf", b"heif"}  # a picture, coded who knows how
_AVIF = {b"avif", b"avis"}
_EXIF_ITEM = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", re.DOTALL)  # ISO/IEC 14496-12, 8.11.6
_NOISY = r"PIL\.(Gif|Png|Tiff)ImagePlugin"

_Opener = Callable[[IO[bytes], str], "ImageFile.ImageFile"]
_Accepts = Callable[[bytes], bool | str] | None


class PictureError(InputError):
    """One picture cannot be used; the sentence says what is wrong with it, without its name."""


_STRANGERS: tuple[tuple[re.Pattern[bytes], str, str], ...] = tuple(
    (re.compile(start, re.DOTALL), en, zh)
    for start, en, zh in (
        (
            rb"version https://git-lfs\.github\.com/spec/",
            "a Git LFS pointer, not the picture: run git lfs pull",
            "这是 Git LFS 指针，不是图片本身：请运行 git lfs pull",
        ),
        (
            rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype html|html|head)\b",
            "a web page, not a picture: download the picture again",
            "这是网页，不是图片：请重新下载图片",
        ),
        (
            rb"(\xef\xbb\xbf)?\s*(<\?xml.{0,400})?<svg\b",
            "an SVG drawing, not a picture of pixels: export it as PNG",
            "这是 SVG 矢量图，不是像素图片：请导出为 PNG",
        ),
        (
            rb"8BPS",
            "a Photoshop document, not a picture we read: export it as JPEG or PNG",
            "这是 Photoshop 文档，无法读取：请导出为 JPEG 或 PNG",
        ),
        (
            rb"\xff\x0a|\0\0\0\x0cJXL \r\n",
            "a JPEG XL picture, which cannot be read here: convert it to JPEG or PNG",
            "JPEG XL 格式的图片，这里无法读取：请转换为 JPEG 或 PNG",
        ),
        (
            rb"....ftypcrx |FUJIFILMCCD-RAW|IIRO|IIU\0",
            "a camera's raw file, not a picture we read: export it as JPEG",
            "这是相机 RAW 文件，无法读取：请导出为 JPEG",
        ),
        (
            rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI |FLV\x01|\0\0\x01\xba",  # see below: not HEIC
            "a video or sound, not a picture",
            "这是视频或音频，不是图片",
        ),
        (rb"%PDF-", "a PDF document, not a picture", "这是 PDF 文档，不是图片"),
    )
)
"""What is often found where a picture should be: how it begins, and the sentence for it."""


def open_picture(data: bytes) -> ImageFile.ImageFile | HeifImage:
    """The picture in the bytes, header read and pixels not.

    Pillow's is upright only where its ``info["exif"]`` says so; libheif's is upright already.
    Raises PictureError for what is no picture, and whatever the plugin raises on damaged bytes.
    """
    brands = _brands(data)
    if brands & _AVIF:
        data = _EXIF_ITEM.sub(rb"\1skip", data)
        name = "AVIF"
    elif brands & (_HEIC | _EITHER):
        return _open_heic(data)
    else:
        _refuse_known_strangers(data)
        name = next((name for name, (_, fits) in _openers().items() if _fits(fits, data)), "")
    if name not in _openers():
        raise PictureError(
            f"not a picture in a format we read (HEIC, {', '.join(FORMATS)})",
            f"不是可以读取的图片格式（HEIC、{'、'.join(FORMATS)}）",
        )
    if name in ("GIF", "PNG", "TIFF"):
        _silence_plugins()
    picture = _openers()[name][0](io.BytesIO(data), "")
    _scale_transparent_colour(picture)
    return picture


def _brands(data: bytes) -> set[bytes]:
    """The brands of an ISO media file (HEIC, AVIF, MP4, ...); none for any other file."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 256)
    return {data[8:12]} | {data[at : at + 4] for at in range(16, end - 3, 4)}


def _open_heic(data: bytes) -> HeifImage:
    """The primary picture. libheif turns it as the container says when its pixels are read."""
    try:
        import pillow_heif
    except ImportError as error:
        raise PictureError(
            "a HEIC picture: install what reads it (pip install pillow-heif) or convert it to JPEG",
            "HEIC 格式的图片：请安装读取它的库（pip install pillow-heif），或转换为 JPEG",
        ) from error
    held = pillow_heif.open_heif(data, convert_hdr_to_8bit=True)
    return held[held.primary_index]


def _refuse_known_strangers(data: bytes) -> None:
    """Name what is often found where a picture should be."""
    if not data:
        raise PictureError("the file is empty", "文件是空的")
    if not any(data[:64]) and not data.strip(b"\0"):
        raise PictureError(
            "the file holds nothing but zeros: copy it again",
            "文件内容全部为零：请重新复制",
        )
    for start, en, zh in _STRANGERS:
        if start.match(data[:512]):
            raise PictureError(en, zh)


def _fits(accepts: _Accepts, data: bytes) -> bool:
    return accepts is None or accepts(data[:16]) is True


@functools.cache
def _openers() -> dict[str, tuple[_Opener, _Accepts]]:
    """Format -> (opener, "are these the first 16 bytes of one?"), of every format in FORMATS."""
    from PIL import Image, JpegImagePlugin

    for plugin in ("Avif", "Bmp", "Gif", "Jpeg2K", "Png", "Ppm", "Tiff", "WebP"):
        with contextlib.suppress(ImportError):  # Avif came with Pillow 11.3
            importlib.import_module(f"PIL.{plugin}ImagePlugin")  # which registers it

    class QuietJpeg(JpegImagePlugin.JpegImageFile):
        """A JPEG, also where it is the first of several in an MPO, opened without reading EXIF."""

        def _read_dpi_from_exif(self) -> None:
            """Nobody here wants the resolution, and damaged EXIF would warn."""

    found: dict[str, tuple[_Opener, _Accepts]] = {}
    for name in FORMATS:
        if name in Image.OPEN:  # AVIF and JPEG 2000 may be missing from a build of Pillow
            opener, accepts = Image.OPEN[name]
            found[name] = (QuietJpeg if name == "JPEG" else opener, accepts)
    return found


def _silence_plugins() -> None:
    """Stop what Pillow's GIF, PNG and TIFF plugins say about odd files and of 89 megapixels.

    Two filters, left in place: taking them away again would race with other threads. Its error
    above 179 megapixels stays, and so does our own limit.
    """
    from PIL.Image import DecompressionBombWarning

    if ("ignore", None, DecompressionBombWarning, None, 0) not in warnings.filters:
        warnings.simplefilter("ignore", DecompressionBombWarning)
    if ("ignore", None, UserWarning, re.compile(_NOISY), 0) not in warnings.filters:
        warnings.filterwarnings("ignore", category=UserWarning, module=_NOISY)


def _scale_transparent_colour(picture: ImageFile.ImageFile) -> None:
    """Bring a PNG's one transparent colour to the depth that Pillow gives its pixels.

    PNG states it in the file's own depth (section 11.3.2.1); Pillow widens 2 and 4 bits to 8 and
    narrows 3 x 16 to 3 x 8, but leaves this colour as it was.
    """
    colour = picture.info.get("transparency")
    if picture.format != "PNG" or colour is None or not picture.tile:
        return
    stored = picture.tile[0].args
    if stored == "RGB;16B":
        picture.info["transparency"] = tuple(value >> 8 for value in colour)
    elif stored in ("L;2", "L;4"):
        picture.info["transparency"] = colour * (85 if stored == "L;2" else 17)
